"""ultra-piston: Piston's API below the path of the once public instance."""

import asyncio

from checks import *
from ultra_piston import File, PistonClient
from ultra_piston.errors import BadRequestError

check = Checks("ultra-piston")
client = PistonClient(base_url=f"{URL}/api/v2/piston", rate_limit=0)


def run(language, code, **options):
    return client.post_execute(language, "*", File(content=code), **options)


@check("runtimes and packages")
def _():
    contains([runtime.language for runtime in client.get_runtimes()], "python", "bash", "c++")
    packages = client.get_packages()
    contains([package.language for package in packages], "python", "gcc")
    equal({package.installed for package in packages}, {True})


@check("print")
def _():
    seen = run("python", "print('hello')")
    equal((seen.language, seen.run.stdout, seen.run.code, seen.compile), ("python", "hello\n", 0, None))


@check("exception")
def _():
    seen = run("python", FAILING)
    equal(seen.run.code, 1)
    contains(seen.run.stderr, "Traceback (most recent call last)", "ZeroDivisionError")


@check("stdin ends with a newline, as Piston's does")
def _():
    code = "import sys\nprint(repr(sys.stdin.read()), sys.argv[1:])"
    seen = run("python", code, stdin=UNICODE, args=["a b"])
    equal(seen.run.stdout, f"{UNICODE + chr(10)!r} ['a b']\n")


@check("a compiled program")
def _():
    seen = run("c++", "#include <cstdio>\nint main() { puts(\"hi\"); return 3; }")
    equal((seen.compile.code, seen.run.stdout, seen.run.code), (0, "hi\n", 3))


@check("what it gets wrong")
def _():
    raises(BadRequestError, lambda: run("klingon", "nuqneH"))


@check("an endless program")
def _():
    equal(run("python", ENDLESS, run_timeout=1000).run.signal, "SIGKILL")


@check("asynchronous calls")
def _():
    seen = asyncio.run(client.post_execute_async("python", "*", File(content="print(42)")))
    equal(seen.run.stdout, "42\n")


check.end()
