"""deepagents with the SessionsBashBackend of langchain-azure-dynamic-sessions (2025-02-02-preview)."""

import requests
from checks import *
from langchain_azure_dynamic_sessions.backends.sessions import SessionsBashBackend

check = Checks("deepagents")
backend = SessionsBashBackend(URL, access_token_provider=token)


@check("print")
def _():
    seen = backend.execute("echo hello; echo oh >&2")
    equal((seen.output, seen.exit_code, seen.truncated), ("hello\noh\n", 0, False))


@check("exception")
def _():
    seen = backend.execute(f"python3 - <<'END'\n{FAILING}\nEND")
    equal(seen.exit_code, 1)
    contains(seen.output, "Traceback (most recent call last)", "ZeroDivisionError")


@check("exit code")
def _():
    equal(backend.execute("exit 7").exit_code, 7)
    equal(backend.execute("kill -SEGV $$").exit_code, 139)


@check("Unicode")
def _():
    equal(backend.execute(f"printf %s '{UNICODE}'").output, UNICODE)


@check("write, read, edit, list, glob, grep")
def _():
    path = "/mnt/data/deep/notes ü.txt"
    equal(backend.write(path, f"one\n{UNICODE}\nthree\n").error, None)
    contains(backend.write(path, "again").error, "already exists")
    contains(backend.read(path), "1\tone", UNICODE, "3\tthree")
    contains(backend.read("/mnt/data/nowhere"), "not found")
    equal(backend.edit(path, "three", "four").occurrences, 1)
    contains(backend.read(path), "3\tfour")
    contains(backend.edit(path, "five", "six").error, "not found")
    equal(backend.ls_info("/mnt/data/deep"), [{"path": "notes ü.txt", "is_dir": False}])
    equal(backend.glob_info("*.txt", "/mnt/data/deep"), [{"path": "notes ü.txt", "is_dir": False}])
    equal([(m["path"], m["line"]) for m in backend.grep("four", "/mnt/data/deep").matches], [(path, 3)])


@check("upload, download")
def _():
    path = f"/mnt/data/{UNICODE_NAME}"
    equal([r.error for r in backend.upload_files([(path, BYTES), ("/mnt/data/empty", b"")])], [None, None])
    contains(backend.execute(f"sha256sum '{path}'").output, digest(BYTES))
    seen = backend.download_files([path, "/mnt/data/empty", "/mnt/data/nowhere"])
    equal([r.error for r in seen], [None, None, "file_not_found"])
    equal(seen[0].content == BYTES, True)
    equal(seen[1].content, b"")


@check("a file that the command wrote")
def _():
    equal(backend.execute("printf 'a\\0b' > /mnt/data/written").exit_code, 0)
    equal(backend.download_files(["/mnt/data/written"])[0].content, b"a\0b")


@check("an endless command")
def _():
    seen = backend.execute("echo begun; while :; do :; done")
    equal(seen.exit_code, -1)
    contains(seen.output, "begun\n")
    equal(backend.execute("echo again").output, "again\n")


@check("hanging up at its own limit and coming back")
def _():
    again = SessionsBashBackend(ONE_AT_A_TIME_URL, access_token_provider=token)
    raises(requests.Timeout, lambda: again.execute("while :; do :; done", timeout=2))
    equal(again.execute("echo again").output, "again\n")


check.end()
