"""Runs Python code in a session.

    SESSION_POOL=https://… python client.py demo-1 'print(input()[::-1])' olleh

SESSION_POOL is the pool's endpoint; without it, an adapter on this machine is asked, which takes no
token.
"""

import os
import sys

import requests
from azure.identity import DefaultAzureCredential

POOL = os.environ.get("SESSION_POOL", "http://localhost:2000").rstrip("/")

# Keeps a token until it is about to expire.
CREDENTIAL = DefaultAzureCredential()


def token() -> dict[str, str]:
    if not POOL.startswith("https:"):
        return {}
    got = CREDENTIAL.get_token("https://dynamicsessions.io/.default")
    return {"Authorization": f"Bearer {got.token}"}


def execute(identifier: str, code: str, stdin: str = "", seconds: float = 60) -> dict:
    answer = requests.post(
        f"{POOL}/python/execute",
        params={"identifier": identifier},
        json={"properties": {"code": code, "stdin": stdin, "timeoutInSeconds": seconds}},
        headers=token(),
        timeout=seconds + 20,
    )
    answer.raise_for_status()
    return answer.json()


if __name__ == "__main__":
    ran = execute(*sys.argv[1:4])
    print(ran["stdout"], end="")
    print(ran["stderr"], end="", file=sys.stderr)
    sys.exit(ran["exitCode"])
