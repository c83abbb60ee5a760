"""azure-dynamic-sessions-code-interpreter: `CodeInterpreterTool` (2024-02-02-preview)."""

import io

from azure_dynamic_sessions_code_interpreter import CodeInterpreterTool
from checks import *

check = Checks("azure-dynamic-sessions-code-interpreter")


def new_tool(**options):
    # A pool's address ends with the pool's path, which the client keeps.
    pool = f"{URL}/subscriptions/0-1/resourceGroups/group/sessionPools/pool"
    tool = CodeInterpreterTool(pool_management_endpoint=pool, **options)
    tool.access_token_provider = token
    return tool


tool = new_tool()


@check("print")
def _():
    seen = tool.execute("print('hello')")
    equal((seen["status"], seen["stdout"], seen["stderr"]), ("Success", "hello\n", ""))


@check("exception")
def _():
    seen = tool.execute(FAILING)
    equal(seen["status"], "Failure")
    contains(seen["stderr"], "Traceback (most recent call last)", "ZeroDivisionError")


@check("value")
def _():
    equal(tool.execute("6 * 7")["result"], 42)


@check("a picture")
def _():
    seen = tool.execute(PICTURE)["result"]
    equal((seen["type"], seen["format"]), ("image", "png"))


@check("no input")
def _():
    contains(tool.execute("input()")["stderr"], "EOFError")


@check("Unicode")
def _():
    equal(tool.execute(f"print({UNICODE!r})")["stdout"], UNICODE + "\n")


@check("files")
def _():
    sent = tool.upload_file(data=io.BytesIO(BYTES), remote_file_path="interpreter.bin")
    equal((sent.filename, sent.size_in_bytes), ("interpreter.bin", len(BYTES)))
    contains([file.filename for file in tool.list_files()], "interpreter.bin")
    equal(tool.download_file(remote_file_path="interpreter.bin").read(), BYTES)
    equal(tool.execute(digest_program("/mnt/data/interpreter.bin"))["stdout"].strip(), digest(BYTES))


@check("an endless program")
def _():
    contains(tool.execute(ENDLESS)["stderr"], "Time limit exceeded")
    equal(tool.execute("print(1)")["stdout"], "1\n")


check.end()
