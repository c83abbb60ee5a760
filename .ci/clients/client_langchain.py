"""langchain-azure-dynamic-sessions: the Python tool (2024-02-02-preview) and the Bash tool
(2025-02-02-preview)."""

import io
import json
import tempfile
from pathlib import Path

from checks import *
from langchain_azure_dynamic_sessions import SessionsBashTool, SessionsPythonREPLTool

check = Checks("langchain python")
tool = SessionsPythonREPLTool(pool_management_endpoint=URL, access_token_provider=token)


def invoke(code):
    return json.loads(tool.invoke(code))


@check("print")
def _():
    equal(invoke("print('hello')"), {"result": "", "stdout": "hello\n", "stderr": ""})


@check("exception")
def _():
    seen = tool.execute(FAILING)
    equal(seen["status"], "Failure")
    contains(seen["stderr"], "Traceback (most recent call last)", "in inner", "ZeroDivisionError")


@check("value")
def _():
    equal(invoke("x = 6\nx * 7")["result"], 42)
    equal(invoke("'a' + 'b'")["result"], "ab")
    equal(invoke("x = 1")["result"], "")


@check("variables, imports and functions last")
def _():
    invoke("import json\nseen = [1]\ndef add(x):\n    seen.append(x)\n    return json.dumps(seen)")
    equal(invoke("add(2)")["result"], "[1, 2]")
    equal(invoke("await_me = 3\nimport asyncio\nawait asyncio.sleep(0, await_me)")["result"], 3)
    other = SessionsPythonREPLTool(pool_management_endpoint=URL, access_token_provider=token)
    contains(other.execute("seen")["stderr"], "NameError")


@check("a picture")
def _():
    import base64

    seen = tool.execute(PICTURE)["result"]
    equal((seen["type"], seen["format"]), ("image", "png"))
    equal(base64.b64decode(seen["base64_data"]), PNG)
    equal(invoke(PICTURE)["result"], {"type": "image", "format": "png"})


@check("Unicode")
def _():
    equal(invoke(f"print({UNICODE!r})\n{UNICODE!r}")["stdout"], UNICODE + "\n")
    equal(invoke(f"{UNICODE!r}")["result"], UNICODE)


@check("upload, list, download")
def _():
    seen = tool.upload_file(data=io.BytesIO(BYTES), remote_file_path="langchain.bin")
    equal((seen.filename, seen.size_in_bytes), ("langchain.bin", len(BYTES)))
    contains([(f.filename, f.size_in_bytes) for f in tool.list_files()], ("langchain.bin", len(BYTES)))
    equal(tool.download_file(remote_file_path="langchain.bin").read() == BYTES, True)
    equal(invoke(digest_program(seen.full_path))["stdout"], digest(BYTES) + "\n")


@check("a file with a Unicode name")
def _():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, UNICODE_NAME)
        path.write_bytes(BYTES)
        equal(tool.upload_file(local_file_path=str(path)).filename, UNICODE_NAME)
        contains([f.filename for f in tool.list_files()], UNICODE_NAME)
        tool.download_file(remote_file_path=UNICODE_NAME, local_file_path=f"{folder}/back")
        equal(Path(folder, "back").read_bytes() == BYTES, True)
    equal(invoke(digest_program(f"/mnt/data/{UNICODE_NAME}"))["stdout"], digest(BYTES) + "\n")


@check("an empty file, and one sent twice")
def _():
    tool.upload_file(data=io.BytesIO(b"first"), remote_file_path="twice")
    tool.upload_file(data=io.BytesIO(b""), remote_file_path="twice")
    equal(tool.download_file(remote_file_path="twice").read(), b"")
    equal([f.size_in_bytes for f in tool.list_files() if f.filename == "twice"], [0])


@check("a file that the program wrote")
def _():
    equal(invoke(write_program("/mnt/data/written.bin"))["stdout"], f"{len(BYTES)}\n")
    contains([f.filename for f in tool.list_files()], "written.bin")
    equal(tool.download_file(remote_file_path="written.bin").read() == BYTES, True)


@check("a program that starts in the data directory")
def _():
    invoke("open('beside', 'w').write('x')")
    contains([f.filename for f in tool.list_files()], "beside")


@check("a file that is not there")
def _():
    import requests

    error = raises(requests.HTTPError, lambda: tool.download_file(remote_file_path="nowhere"))
    equal(error.response.status_code, 404)


@check("an endless program")
def _():
    seen = tool.execute(f"print('begun', flush=True)\n{ENDLESS}")
    equal((seen["status"], seen["stdout"]), ("Failure", "begun\n"))
    contains(seen["stderr"], "Time limit exceeded")
    equal(invoke("1 + 1")["result"], 2)


CLIENT = f"""
from langchain_azure_dynamic_sessions import SessionsBashTool, SessionsPythonREPLTool
options = dict(pool_management_endpoint={ONE_AT_A_TIME_URL!r}, access_token_provider=lambda: "token")
"""


@check("hanging up and coming back")
def _():
    code = begun_program("langchain-python")
    killed_while_waiting(f"{CLIENT}SessionsPythonREPLTool(**options).execute({code!r})", "langchain-python")
    again = SessionsPythonREPLTool(
        pool_management_endpoint=ONE_AT_A_TIME_URL, access_token_provider=token
    )
    equal(json.loads(again.invoke("1 + 1"))["result"], 2)


python_failed = check.failed
check = Checks("langchain bash")
shell = SessionsBashTool(pool_management_endpoint=URL, access_token_provider=token)


def run(command):
    return json.loads(shell.invoke(command))


@check("echo")
def _():
    equal(run("echo hello; echo oh >&2"), {"stdout": "hello\n", "stderr": "oh\n", "exitCode": 0})


@check("exit code")
def _():
    equal(run("exit 7")["exitCode"], 7)
    equal(run("kill -KILL $$")["exitCode"], 137)
    equal(run("no-such-command")["exitCode"], 127)


@check("Unicode")
def _():
    equal(run(f"printf %s '{UNICODE}'")["stdout"], UNICODE)


@check("upload, list, download")
def _():
    seen = shell.upload_file(data=io.BytesIO(BYTES), remote_file_path=UNICODE_NAME)
    equal((seen.filename, seen.size_in_bytes), (UNICODE_NAME, len(BYTES)))
    contains([(f.filename, f.size_in_bytes) for f in shell.list_files()], (UNICODE_NAME, len(BYTES)))
    equal(shell.download_file(remote_file_path=UNICODE_NAME).read() == BYTES, True)
    contains(run(f"cat '/mnt/data/{UNICODE_NAME}' | sha256sum")["stdout"], digest(BYTES))


@check("an endless command")
def _():
    equal(run("echo begun; while :; do :; done")["exitCode"], -1)
    equal(run("echo again")["stdout"], "again\n")


@check("hanging up and coming back")
def _():
    command = "touch /mnt/data/langchain-bash; while :; do :; done"
    killed_while_waiting(f"{CLIENT}SessionsBashTool(**options).execute({command!r})", "langchain-bash")
    again = SessionsBashTool(pool_management_endpoint=ONE_AT_A_TIME_URL, access_token_provider=token)
    equal(json.loads(again.invoke("echo again"))["stdout"], "again\n")


@check("deleting the session")
def _():
    shell.upload_file(data=io.BytesIO(b"x"), remote_file_path="deleted")
    # What `delete_session` starts in a thread that nothing waits for.
    shell._delete_session_sync(shell.session_id)
    equal([f.filename for f in shell.list_files()], [])


check.failed += python_failed
check.end()
