"""What every client is asked for, and how it is told."""

import asyncio
import hashlib
import inspect
import os
import subprocess
import sys
import time
import traceback

# Where the adapter is. One runs several executions at a time and stops each after 3 s; the other
# runs one at a time and lets it run for minutes, so that it answers a second request only once it
# has given up the first.
URL = os.environ["ADAPTER_URL"]
ENGINE_URL = os.environ["ENGINE_URL"]
ONE_AT_A_TIME_URL = os.environ["ONE_AT_A_TIME_URL"]
ONE_AT_A_TIME_ENGINE_URL = os.environ["ONE_AT_A_TIME_ENGINE_URL"]
# Its data directory, as this machine sees it.
ONE_AT_A_TIME_DATA = os.environ["ONE_AT_A_TIME_DATA"]

UNICODE = "Grüße, 世界 🐍 e\u0301 \u202eabc"
UNICODE_NAME = "Grüße 世界 🐍 e\u0301.bin"
# Every byte value, line ends, what looks like a boundary, and no line end behind it.
BYTES = bytes(range(256)) * 1000 + b"\r\n--boundary--\r\n\x00\n\r"
ENDLESS = "while True:\n    pass"
FAILING = "def inner():\n    return 1 / 0\n\ninner()"


def token(*_scopes, **_options):
    """Nothing checks it."""
    return "token"


# A program whose value is a picture; the class stands in for Pillow's, which may not be installed.
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PICTURE = f"""class Image:
    def _repr_png_(self):
        return {PNG!r}
Image()"""


class Credential:
    """A credential of azure.core whose token is always the same."""

    def get_token(self, *_scopes, **_options):
        from azure.core.credentials import AccessToken

        return AccessToken(token(), int(time.time()) + 86400)


class Checks:
    """Prints one line a check; `end` gives the exit code."""

    def __init__(self, client):
        self.client = client
        self.failed = 0

    def __call__(self, name, known=None):
        """Runs what it decorates at once, and reports it. `known` is why it cannot work: then it
        must fail."""

        def run(check):
            told = f"{self.client:<24} {name}"
            try:
                result = check()
                if inspect.iscoroutine(result):
                    asyncio.run(result)
            except Exception as error:  # noqa: BLE001
                if known:
                    print(f"known   {told}: {known}", flush=True)
                    return
                self.failed += 1
                where = traceback.extract_tb(error.__traceback__)
                mine = [entry.lineno for entry in where if entry.filename.endswith(sys.argv[0])]
                line = mine[-1] if mine else "?"
                why = f"{type(error).__name__}: {error}".strip().replace("\n", "\\n")
                print(f"FAILED  {told}: line {line}: {why[:600]}", flush=True)
            else:
                if known:
                    self.failed += 1
                    print(f"FAILED  {told}: works, but should not: {known}", flush=True)
                else:
                    print(f"ok      {told}", flush=True)

        return run

    def end(self):
        sys.exit(1 if self.failed else 0)


def equal(seen, expected):
    if seen != expected:
        raise AssertionError(f"{seen!r:.250} instead of {expected!r:.250}")


def contains(seen, *expected):
    for part in expected:
        if part not in seen:
            raise AssertionError(f"{part!r} is not in {seen!r:.400}")


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def digest_program(name):
    """A program that prints the digest of a file of the session."""
    return f"import hashlib\nprint(hashlib.sha256(open({name!r}, 'rb').read()).hexdigest())"


def write_program(name):
    """A program that writes BYTES."""
    return (
        f"data = bytes(range(256)) * 1000 + {BYTES[256000:]!r}\n"
        f"print(open({name!r}, 'wb').write(data))"
    )


def begun_program(name):
    """An endless program that leaves a file once it has begun."""
    return f"open('/mnt/data/{name}', 'w').close()\n{ENDLESS}"


def wait_until_begun(name):
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{ONE_AT_A_TIME_DATA}/{name}"):
        if time.monotonic() > deadline:
            raise AssertionError("the program did not begin within a minute")
        time.sleep(0.02)


def killed_while_waiting(client_program, name):
    """Runs a program of a client that knows no limit of its own, and kills the client once the
    endless program that it sent (`begun_program(name)`) runs."""
    client = subprocess.Popen([sys.executable, "-W", "ignore", "-c", client_program])
    try:
        wait_until_begun(name)
    finally:
        client.kill()
        client.wait()
