"""aiopyston: Piston's API through the adapter, and on the engine itself."""

import asyncio

from checks import *
from pyston import File, PystonClient
from pyston.exceptions import ExecutionError, InvalidLanguage

failed = 0
for where, url, one_at_a_time in [
    ("adapter", URL, ONE_AT_A_TIME_URL),
    ("engine", ENGINE_URL, ONE_AT_A_TIME_ENGINE_URL),
]:
    check = Checks(f"aiopyston, {where}")

    async def with_client(use, url=url):
        client = PystonClient(base_url=f"{url}/api/v2/")
        try:
            return await use(client)
        finally:
            await client.close_session()

    async def run(language, code, url=url, **options):
        return await with_client(lambda c: c.execute(language, [File(code)], **options), url)

    @check("runtimes")
    async def _():
        seen = await with_client(lambda client: client.runtimes())
        contains([runtime.language for runtime in seen], "python", "bash")
        contains(await with_client(lambda client: client.languages()), "python")
        equal((await with_client(lambda c: c.get_runtimes("py")))[0].language, "python")
        try:
            await with_client(lambda client: client.get_runtimes("klingon"))
        except InvalidLanguage:
            pass
        else:
            raise AssertionError("no InvalidLanguage")

    @check("print")
    async def _():
        seen = await run("python", "print('hello')")
        equal((seen.langauge, seen.run_stage.stdout, seen.run_stage.code), ("python", "hello\n", 0))
        equal((seen.success, str(seen), seen.compile_stage), (True, "hello\n", None))

    @check("exception")
    async def _():
        seen = await run("python", FAILING)
        equal(seen.run_stage.code, 1)
        contains(seen.run_stage.output, "Traceback (most recent call last)", "ZeroDivisionError")

    @check("Unicode")
    async def _():
        equal((await run("python", f"print({UNICODE!r})")).run_stage.stdout, UNICODE + "\n")

    @check("stdin, arguments, several files")
    async def _():
        code = "import sys, beside\nprint(input(), sys.argv[1:], beside.x)"
        files = [File(code, "main.py"), File("x = 7", "beside.py")]
        options = {"stdin": UNICODE, "args": ["a b", "ü"]}
        seen = await with_client(lambda c: c.execute("python", files, **options))
        equal(seen.run_stage.output, f"{UNICODE} ['a b', 'ü'] 7\n")

    @check("a compile error")
    async def _():
        seen = await run("c++", "int main() { return x; }")
        contains(seen.compile_stage.output, "not declared")
        equal(seen.compile_stage.code, 1)

    @check("a compiled program")
    async def _():
        seen = await run("c++", "#include <cstdio>\nint main() { puts(\"hi\"); return 3; }")
        equal((seen.compile_stage.code, seen.run_stage.output, seen.run_stage.code), (0, "hi\n", 3))

    @check("what it gets wrong")
    async def _():
        try:
            await run("klingon", "nuqneH")
        except ExecutionError as error:
            contains(str(error), "klingon")
        else:
            raise AssertionError("no ExecutionError")

    @check("an endless program")
    async def _():
        seen = await run("python", ENDLESS, run_timeout=1000)
        equal((seen.run_stage.signal, seen.run_stage.code), ("SIGKILL", None))
        equal((await run("python", "print(1)")).run_stage.output, "1\n")

    @check("hanging up and coming back")
    async def _():
        name = f"aiopyston-{where}"
        running = asyncio.create_task(
            run("python", begun_program(name), one_at_a_time, run_timeout=100_000)
        )
        await asyncio.to_thread(wait_until_begun, name)
        running.cancel()
        await asyncio.wait([running])
        equal((await run("python", "print(1)", one_at_a_time)).run_stage.output, "1\n")

    failed += check.failed

check.failed = failed
check.end()
