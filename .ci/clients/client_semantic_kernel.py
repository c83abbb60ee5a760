"""semantic-kernel: SessionsPythonTool (2024-02-02-preview), which insists on https."""

import os
import tempfile
from pathlib import Path

from checks import *
from httpx import HTTPError
from semantic_kernel.core_plugins.sessions_python_tool.sessions_python_plugin import SessionsPythonTool
from semantic_kernel.exceptions.function_exceptions import FunctionExecutionException

check = Checks("semantic-kernel")
folder = tempfile.mkdtemp()


def tool(url=os.environ["ADAPTER_TLS_URL"]):
    return SessionsPythonTool(
        auth_callback=token,
        pool_management_endpoint=url,
        enable_dangerous_file_uploads=True,
        allowed_upload_directories={folder},
    )


def fields(text):
    """The parts of `Status:\\n…\\nResult:\\n…\\nStdout:\\n…\\nStderr:\\n…`."""
    status, rest = text.removeprefix("Status:\n").split("\nResult:\n", 1)
    result, rest = rest.split("\nStdout:\n", 1)
    stdout, stderr = rest.split("\nStderr:\n", 1)
    return status, result, stdout, stderr


@check("print")
async def _():
    equal(fields(await tool().execute_code("print('hello')")), ("Success", "", "hello\n", ""))


@check("exception")
async def _():
    status, _result, _stdout, stderr = fields(await tool().execute_code(FAILING))
    equal(status, "Failure")
    contains(stderr, "Traceback (most recent call last)", "ZeroDivisionError")


@check("value")
async def _():
    equal(fields(await tool().execute_code("6 * 7"))[1], "42")


@check("variables last")
async def _():
    session = tool()
    await session.execute_code("total = 40")
    equal(fields(await session.execute_code("total + 2"))[1], "42")


@check("Unicode")
async def _():
    status, result, stdout, _stderr = fields(await tool().execute_code(f"print({UNICODE!r})\n{UNICODE!r}"))
    equal((status, result, stdout), ("Success", UNICODE, UNICODE + "\n"))


async def round_trip(session, name):
    path = Path(folder, name)
    path.write_bytes(BYTES)
    seen = await session.upload_file(local_file_path=str(path))
    equal((seen.full_path, seen.size_in_bytes), (f"/mnt/data/{name}", len(BYTES)))
    contains([f.full_path for f in await session.list_files()], f"/mnt/data/{name}")
    equal((await session.download_file(remote_file_name=name)).read() == BYTES, True)
    await session.download_file(remote_file_name=name, local_file_path=f"{folder}/back")
    equal(Path(folder, "back").read_bytes() == BYTES, True)
    stdout = fields(await session.execute_code(digest_program(f"/mnt/data/{name}")))[2]
    equal(stdout, digest(BYTES) + "\n")


@check("upload, list, download")
async def _():
    await round_trip(tool(), "semantic.bin")


@check("a file with a Unicode name")
async def _():
    await round_trip(tool(), UNICODE_NAME)


@check("upload after an execution")
async def _():
    # From then on the client says `application/json` of its multipart bodies.
    session = tool()
    await session.execute_code("1 + 1")
    await round_trip(session, "after.bin")


@check("a file that the program wrote")
async def _():
    session = tool()
    equal(fields(await session.execute_code(write_program("/mnt/data/sk.bin")))[2], f"{len(BYTES)}\n")
    equal((await session.download_file(remote_file_name="sk.bin")).read() == BYTES, True)


@check("a file that is not there")
async def _():
    try:
        await tool().download_file(remote_file_name="nowhere")
    except FunctionExecutionException as error:
        contains(str(error), "404")
    else:
        raise AssertionError("no FunctionExecutionException")


@check("an endless program")
async def _():
    # The client would wait 5 s and asks for 100 s; the adapter allows less here.
    session = tool(os.environ["ADAPTER_TLS_URL"])
    session.settings.timeout_in_sec = 2
    status, _result, stdout, stderr = fields(
        await session.execute_code(f"print('begun', flush=True)\n{ENDLESS}")
    )
    equal((status, stdout), ("Failure", "begun\n"))
    contains(stderr, "Time limit exceeded")
    equal(fields(await session.execute_code("1 + 1"))[1], "2")


@check("hanging up at its own limit and coming back")
async def _():
    session = tool(os.environ["ONE_AT_A_TIME_TLS_URL"])
    try:
        await session.execute_code(ENDLESS)
    except HTTPError:
        pass
    else:
        raise AssertionError("it did not hang up")
    equal(fields(await session.execute_code("1 + 1"))[1], "2")


check.end()
