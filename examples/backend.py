"""A back end on port 8000 that takes Piston's requests and has a session pool run them.

    SESSION_POOL=https://… python backend.py
    curl localhost:8000/api/v2/execute -H 'X-Session: demo-1' \\
         -d '{"language":"python","files":[{"content":"print(input())"}],"stdin":"hi"}'

The session's name comes from a header to keep this short. Who knows a session's name is in it: a
real back end derives it from the login of its user.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import requests
from azure.core.exceptions import AzureError
from client import POOL, token


def execute(piston: dict, identifier: str) -> requests.Response:
    """The ten lines: Piston's body in, the pool's answer out."""
    properties = {
        "codeInputType": "inline",
        "executionType": "synchronous",
        "code": piston["files"][0]["content"],
        "stdin": piston.get("stdin", ""),
        "args": piston.get("args", []),
    }
    url = f"{POOL}/{quote(piston['language'], safe='')}/execute"
    query = {"identifier": identifier}
    body = {"properties": properties}
    return requests.post(url, params=query, json=body, headers=token(), timeout=240)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path != "/api/v2/execute":
            return self.answer(404, {"message": "POST /api/v2/execute"})
        try:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            needed = asked["language"], asked["files"][0]["content"]
            if not all(isinstance(value, str) for value in needed):
                raise TypeError
        except (ValueError, LookupError, TypeError):
            return self.answer(400, {"message": "language and files[0].content are needed"})
        try:
            ran = execute(asked, self.headers.get("X-Session", "demo-1"))
            answer = ran.json()
            # Whether the program failed stands in `run`: `run.stdout`, `run.stderr`, `run.code`.
            told = {"run": answer["run"]} if ran.ok else {"message": answer["error"]["message"]}
        except (AzureError, requests.RequestException, LookupError, TypeError):
            return self.answer(502, {"message": "the session pool does not answer as it should"})
        self.answer(ran.status_code, told)

    def answer(self, status: int, body: dict):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Nothing: a log of requests is the real back end's affair."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
