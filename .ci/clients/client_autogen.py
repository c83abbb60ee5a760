"""autogen-ext: ACADynamicSessionsCodeExecutor (2024-02-02-preview)."""

import asyncio
import tempfile
from pathlib import Path

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, with_requirements
from autogen_ext.code_executors.azure import ACADynamicSessionsCodeExecutor
from checks import *

check = Checks("autogen")
folder = Path(tempfile.mkdtemp())


def executor(url=URL, **options):
    return ACADynamicSessionsCodeExecutor(url, Credential(), work_dir=folder, **options)


async def run(session, *codes):
    blocks = [CodeBlock(code=code, language="python") for code in codes]
    return await session.execute_code_blocks(blocks, CancellationToken())


@check("print")
async def _():
    seen = await run(executor(), "print('hello')")
    equal((seen.exit_code, seen.output), (0, "hello\n"))


@check("two blocks")
async def _():
    seen = await run(executor(), "print('one')", "print('two')")
    equal((seen.exit_code, seen.output), (0, "one\ntwo\n"))


@check("exception")
async def _():
    seen = await run(executor(), FAILING)
    equal(seen.exit_code, 1)
    contains(seen.output, "Traceback (most recent call last)", "ZeroDivisionError")


@check("value")
async def _():
    equal((await run(executor(), "6 * 7")).output, "42")
    equal((await run(executor(suppress_result_output=True), "6 * 7")).output, "")


@check("Unicode")
async def _():
    equal((await run(executor(), f"print({UNICODE!r})")).output, UNICODE + "\n")


@check("blocks that build on one another")
async def _():
    session = executor()
    await run(session, "from math import sqrt", "def root(x): return sqrt(x)")
    equal((await run(session, "root(49)")).output, "7.0")
    equal((await run(executor(), "'root' in globals()")).output, "False")


@check("the packages that there are")
async def _():
    session = executor()
    # It asks for its token with the first execution.
    await run(session, "print(1)")
    contains(await session.get_available_packages(CancellationToken()), "setuptools")


@with_requirements(python_packages=["setuptools"])
def add_two(x: int) -> int:
    """Adds two."""
    return x + 2


@with_requirements(global_imports=["math"])
def root(x: int) -> float:
    """The square root."""
    return math.sqrt(x)


@check("a function that needs an import")
async def _():
    equal((await run(executor(functions=[root]), "print(1)")).output, "1\n")


@check("a function that needs a package")
async def _():
    equal((await run(executor(functions=[add_two]), "print(1)")).output, "1\n")


@check("upload, list, download")
async def _():
    session = executor()
    for name in ["autogen.bin", UNICODE_NAME, "100% (a+b)&c=d;e'f.txt"]:
        (folder / name).write_bytes(BYTES)
        await session.upload_files([name], CancellationToken())
        contains(await session.get_file_list(CancellationToken()), name)
        (folder / name).unlink()
        # The client puts the name into the URL as it is.
        if not set(name) & set("%&"):
            await session.download_files([name], CancellationToken())
            equal((folder / name).read_bytes() == BYTES, True)
        seen = await run(session, digest_program(f"/mnt/data/{name}"))
        equal(seen.output, digest(BYTES) + "\n")


@check("a file that the program wrote")
async def _():
    session = executor()
    await run(session, write_program("/mnt/data/ag.bin"))
    await session.download_files(["ag.bin"], CancellationToken())
    equal((folder / "ag.bin").read_bytes() == BYTES, True)


@check("an endless program")
async def _():
    session = executor()
    seen = await run(session, f"print('begun', flush=True)\n{ENDLESS}")
    equal(seen.exit_code, 1)
    contains(seen.output, "begun", "Time limit exceeded")
    equal((await run(session, "1 + 1")).output, "2")


@check("hanging up at its own limit and coming back")
async def _():
    session = executor(ONE_AT_A_TIME_URL, timeout=3)
    try:
        await run(session, ENDLESS)
    except asyncio.TimeoutError:
        pass
    else:
        raise AssertionError("it did not hang up")
    equal((await run(executor(ONE_AT_A_TIME_URL), "1 + 1")).output, "2")


@check("being cancelled and coming back")
async def _():
    cancel = CancellationToken()
    blocks = [CodeBlock(code=begun_program("autogen"), language="python")]
    running = asyncio.create_task(executor(ONE_AT_A_TIME_URL).execute_code_blocks(blocks, cancel))
    await asyncio.to_thread(wait_until_begun, "autogen")
    cancel.cancel()
    try:
        await running
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("it was not cancelled")
    equal((await run(executor(ONE_AT_A_TIME_URL), "1 + 1")).output, "2")


check.end()
