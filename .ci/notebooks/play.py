"""Plays the notebooks of fixtures/notebooks through real ipykernel and through an adapter, and compares.

    play.py --record             what ipykernel gives becomes fixtures/notebooks/expected.json
    play.py URL [NAME ...]       each notebook through each dialect of the adapter at URL

A notebook is Python in the percent format. What stands behind `# %%`: `stdin="…"`, `stdin_ends` (nothing
is left to read, which no frontend of Jupyter can say: not asked of ipykernel), `needs=` (packages).
"""

import ast
import base64
import difflib
import json
import re
import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "fixtures/notebooks"
EXPECTED = FOLDER / "expected.json"
DIALECTS = [
    ("/code/execute?api-version=2024-02-02-preview", "code", ["properties"]),
    ("/execute?api-version=2024-09-01-preview", "code", []),
    ("/executions?api-version=2025-10-02-preview", "code", ["result"]),
    ("/python/execute?api-version=2024-02-02-preview", "pythonCode", ["properties"]),
]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def cells_of(notebook):
    cells = []
    for line in notebook.read_text().splitlines(keepends=True):
        if line.startswith("# %%"):
            head = line.removeprefix("# %%").strip()
            stdin = re.search(r'stdin=("(?:[^"\\]|\\.)*")', head)
            needs = re.search(r"needs=(\S+)", head)
            cells.append({
                "code": "",
                "stdin": ast.literal_eval(stdin[1]) if stdin else "",
                "stdin_ends": "stdin_ends" in head,
                "needs": needs[1].split(",") if needs else [],
            })
        else:
            cells[-1]["code"] += line
    return cells


def last_line(text):
    lines = [line.rstrip() for line in ANSI.sub("", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def value_of(bundles, result):
    """Azure's `result`, by the rule in docs/API.md."""
    if result is None:
        shown = [bundle for bundle in bundles if "image/png" in bundle]
        return {"type": "image"} if shown else ""
    if "image/png" in result:
        return {"type": "image"}
    text = result["text/plain"]
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        pass
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, str) else text
    except (ValueError, SyntaxError):
        return text


class Jupyter:
    """ipykernel, by its own client."""

    def __init__(self):
        from jupyter_client.manager import start_new_kernel

        self.folder = tempfile.TemporaryDirectory()
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=self.folder.name)

    def play(self, cell):
        lines = cell["stdin"].splitlines()
        seen = {"stdout": "", "stderr": "", "bundles": [], "ids": [], "result": None}
        clear = False

        def on_output(message):
            nonlocal clear
            kind, content = message["msg_type"], message["content"]
            if clear and kind in ("stream", "display_data", "execute_result"):
                clear = False
                seen.update(stdout="", bundles=[], ids=[])
            if kind == "stream":
                seen[content["name"]] += content["text"]
            elif kind == "error":
                seen["stderr"] += "\n".join(content["traceback"]) + "\n"
            elif kind in ("display_data", "execute_result"):
                seen["bundles"].append(content["data"])
                seen["ids"].append(content.get("transient", {}).get("display_id"))
                if kind == "execute_result":
                    seen["result"] = content["data"]
            elif kind == "update_display_data":
                display_id = content["transient"]["display_id"]
                if display_id in seen["ids"]:
                    seen["bundles"][seen["ids"].index(display_id)] = content["data"]
            elif kind == "clear_output":
                clear = content["wait"]
                if not clear:
                    seen.update(stdout="", bundles=[], ids=[])

        def on_stdin(_message):
            self.client.input(lines.pop(0))

        self.client.execute_interactive(
            cell["code"], allow_stdin=True, timeout=60, output_hook=on_output, stdin_hook=on_stdin
        )
        return {
            # Jupyter's `!command` runs on a terminal.
            "stdout": seen["stdout"].replace("\r\n", "\n"),
            "stderr_end": last_line(seen["stderr"]),
            "value": value_of(seen["bundles"], seen["result"]),
            "mime": [sorted(bundle) for bundle in seen["bundles"]],
        }

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.folder.cleanup()


class Adapter:
    """One dialect of an adapter."""

    def __init__(self, url, path, code, parts):
        self.url, self.path, self.code, self.parts = url, path, code, parts
        self.identifier = str(uuid.uuid4())

    def play(self, cell):
        fields = {self.code: cell["code"], "stdin": cell["stdin"]}
        request = urllib.request.Request(
            f"{self.url}{self.path}&identifier={self.identifier}",
            json.dumps({"properties": fields}).encode(),
            {"Content-Type": "application/json"},
        )
        response = json.load(urllib.request.urlopen(request, timeout=120))
        for part in self.parts:
            response = response[part]
        value = response["executionResult"]
        if isinstance(value, dict) and value.get("type") == "image":
            base64.b64decode(value["base64_data"], validate=True)
            value = {"type": "image"}
        return {
            "stdout": response["stdout"],
            "stderr_end": last_line(response["stderr"]),
            "value": value,
            "mime": [sorted(output["data"]) for output in response.get("outputs", [])],
        }


def record():
    expected = {}
    for notebook in sorted(FOLDER.glob("*.py")):
        jupyter = Jupyter()
        expected[notebook.stem] = [
            None if cell["stdin_ends"] else jupyter.play(cell) for cell in cells_of(notebook)
        ]
        jupyter.close()
    return expected


def dump(expected):
    return json.dumps(expected, indent=1, ensure_ascii=False) + "\n"


def compare(url, names):
    expected = json.loads(EXPECTED.read_text())
    failed = played = 0
    for notebook in sorted(FOLDER.glob("*.py")):
        if names and notebook.stem not in names:
            continue
        for dialect in DIALECTS:
            session = Adapter(url, *dialect)
            for number, (cell, wanted) in enumerate(zip(cells_of(notebook), expected[notebook.stem])):
                seen = session.play(cell)
                played += 1
                if cell["stdin_ends"]:
                    wanted = {**seen, "stderr_end": "EOFError: EOF when reading a line"}
                if seen != wanted:
                    failed += 1
                    print(f"FAILED  {notebook.stem} cell {number + 1} by {dialect[0]}:\n{cell['code']}")
                    for key in wanted:
                        if seen[key] != wanted[key]:
                            print(f"  {key}: {seen[key]!r:.400}\n  wanted {wanted[key]!r:.400}")
    print(f"{played} cells played, {failed} failed")
    return failed == 0 and played > 0


if __name__ == "__main__":
    if sys.argv[1] == "--record":
        EXPECTED.write_text(dump(record()))
    elif sys.argv[1] == "--check":
        before, now = EXPECTED.read_text(), dump(record())
        sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), now.splitlines(True)))
        sys.exit(before != now)
    else:
        sys.exit(not compare(sys.argv[1], sys.argv[2:]))
