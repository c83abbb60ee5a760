"""llama-index-tools-azure-code-interpreter: AzureCodeInterpreterToolSpec (2024-02-02-preview)."""

import tempfile
from pathlib import Path

import requests
from checks import *
from llama_index.tools.azure_code_interpreter import AzureCodeInterpreterToolSpec

check = Checks("llama-index")
folder = tempfile.mkdtemp()


def new_tool(url=URL):
    tool = AzureCodeInterpreterToolSpec(pool_management_endpoint=url, local_save_path=folder)
    # Its constructor takes none, and the one it makes asks Azure.
    tool.access_token_provider = token
    return tool


tool = new_tool()


def run(code):
    return tool.code_interpreter(code)["properties"]


@check("print")
def _():
    seen = run("print('hello')")
    equal((seen["status"], seen["stdout"], seen["stderr"], seen["result"]), ("Success", "hello\n", "", ""))


@check("exception")
def _():
    seen = run(FAILING)
    equal(seen["status"], "Failure")
    contains(seen["stderr"], "Traceback (most recent call last)", "ZeroDivisionError")


@check("value")
def _():
    equal(run("6 * 7")["result"], 42)


@check("variables last")
def _():
    run("total = 40")
    equal(run("total + 2")["result"], 42)
    contains(new_tool().code_interpreter("total")["properties"]["stderr"], "NameError")


@check("a picture, which it saves")
def _():
    seen = run(PICTURE)["result"]
    equal((seen["type"], seen["format"], seen["saved_to_local_path"]), ("image", "png", True))
    (saved,) = Path(folder).glob(f"{tool.session_id}_*.png")
    equal(saved.read_bytes(), PNG)


@check("Unicode")
def _():
    seen = run(f"print({UNICODE!r})\n{UNICODE!r}")
    equal((seen["stdout"], seen["result"]), (UNICODE + "\n", UNICODE))


@check("upload, list, download")
def _():
    for name in ["llama.bin", UNICODE_NAME]:
        path = Path(folder, name)
        path.write_bytes(BYTES)
        (seen,) = tool.upload_file(local_file_path=str(path))
        equal((seen.file_full_path, seen.size_in_bytes), (f"/mnt/data/{name}", len(BYTES)))
        contains([f.file_full_path for f in tool.list_files()], f"/mnt/data/{name}")
        equal(tool.download_file_to_local(f"/mnt/data/{name}").read() == BYTES, True)
        tool.download_file_to_local(name, local_file_path=str(path))
        equal(path.read_bytes() == BYTES, True)
        equal(run(digest_program(f"/mnt/data/{name}"))["stdout"], digest(BYTES) + "\n")


@check("a file that the program wrote")
def _():
    equal(run(write_program("/mnt/data/li.bin"))["stdout"], f"{len(BYTES)}\n")
    equal(tool.download_file_to_local("/mnt/data/li.bin").read() == BYTES, True)


@check("a file that is not there")
def _():
    error = raises(requests.HTTPError, lambda: tool.download_file_to_local("nowhere"))
    equal(error.response.status_code, 404)


@check("an endless program")
def _():
    seen = run(f"print('begun', flush=True)\n{ENDLESS}")
    equal((seen["status"], seen["stdout"]), ("Failure", "begun\n"))
    contains(seen["stderr"], "Time limit exceeded")
    equal(run("1 + 1")["result"], 2)


@check("hanging up and coming back")
def _():
    killed_while_waiting(
        f"""
from llama_index.tools.azure_code_interpreter import AzureCodeInterpreterToolSpec
tool = AzureCodeInterpreterToolSpec(pool_management_endpoint={ONE_AT_A_TIME_URL!r})
tool.access_token_provider = lambda: "token"
tool.code_interpreter({begun_program("llama-index")!r})
""",
        "llama-index",
    )
    equal(new_tool(ONE_AT_A_TIME_URL).code_interpreter("1 + 1")["properties"]["result"], 2)


check.end()
