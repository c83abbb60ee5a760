"""Where the adapter and Azure's documents differ on purpose, and programs that are harmless and
short for Schemathesis to send. Nothing else of the documents is changed."""

import base64
import re

import schemathesis

PROGRAMS = [
    "print('hello')",
    "6 * 7",
    "'text'",
    "[1, 2.5, None, {'a': '\u00fc'}]",
    "float('nan')",
    "1 / 0",
    "import sys; sys.exit(3)",
    "print('\u4e16\u754c \U0001f40d'); input()",
    "def (",
    "",
]
# One of these says what is to be run.
WAYS = ["code", "shellCommand", "execCommandAndArgs"]
COMMANDS = ["echo hello", "exit 3", "cat", "kill -KILL $$", "no-such-command", ""]

DOCUMENTS = ["2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview"]


@schemathesis.hook
def before_load_schema(_context, document):
    version = document["info"]["version"]
    assert version in DOCUMENTS
    for exception in EXCEPTIONS:
        exception(document, version)


def api_version(document, version):
    """Clients leave it out, or leave it empty: then the newest is meant. The document takes any
    text for it, the adapter the versions that it speaks."""
    parameter = document["parameters"]["Azure.Core.Foundations.ApiVersionParameter"]
    parameter.pop("minLength")
    parameter["enum"] = [version, ""]
    parameter["required"] = False


def identifier(document, _version):
    """The pool has used it by then, and the adapter needs none. It may be 128 characters long, as
    the pattern says, though `maxLength` says 256."""
    parameter = document["parameters"]["SessionIdentifier"]
    parameter.pop("minLength")
    parameter["maxLength"] = 128
    parameter["pattern"] = re.sub(r"\^(.*)\$", r"^(?:\1)?$", parameter["pattern"])
    parameter["required"] = False


def operation_id(document, _version):
    """It becomes a part of the path in `Operation-Location`."""
    for name, parameter in document["parameters"].items():
        if name == "ExecutionOperationIdHeader":
            parameter["pattern"] = "^[A-Za-z0-9._-]{1,128}$"


def request(document, _version):
    """Most clients send the program and no more: neither what kind it is, nor a time limit. A limit
    of 0 is none that a program can keep; one that is too high is lowered, however high it is, and
    fractions of a second count.
    Enumerations are in any case, and what is null is not there. The newest document takes requests
    to run nothing."""
    schema = document["definitions"]["SessionCodeExecutionRequest"]
    schema.pop("required")
    ways = [way for way in WAYS if way in schema["properties"]]
    schema["anyOf"] = [{"required": [way]} for way in ways]
    schema["properties"]["timeoutInSeconds"] = {"type": "number", "minimum": 1}
    if "outputStreamsMaxLength" in schema["properties"]:
        schema["properties"]["outputStreamsMaxLength"]["minimum"] = 1
    if "execCommandAndArgs" in ways:
        schema["properties"]["execCommandAndArgs"]["minItems"] = 1
    for name, field in schema["properties"].items():
        if "$ref" in field:
            values = document["definitions"][field.pop("$ref").removeprefix("#/definitions/")]["enum"]
            anywise = ["".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in v) for v in values]
            field.update(type="string", pattern=f"^({'|'.join(anywise)})$")
        if name not in ways:
            field["x-nullable"] = True


def accepted(document, _version):
    """An execution that goes on is 202: the documents' own examples have it, their lists of
    responses do not."""
    responses = document["paths"]["/executions"]["post"]["responses"]
    responses["202"] = responses["200"]


def shell_status(document, version):
    """The status of a shell command is its exit code as text, as the document's own examples have
    it and its schema has not."""
    if version == "2025-10-02-preview":
        states = document["definitions"]["Azure.Core.Foundations.OperationState"]
        states.pop("enum")
        states["pattern"] = "^(NotStarted|Running|Succeeded|Failed|Canceled|-?[0-9]+)$"


def no_content(document, _version):
    """An answer without a body has no content type."""
    usual = document.pop("produces")
    for methods in document["paths"].values():
        for operation in methods.values():
            if "204" not in operation["responses"]:
                operation.setdefault("produces", usual)


def operation_location(document, _version):
    """It is relative to the pool's address, which the container cannot know."""
    for response in document["paths"]["/executions"]["post"]["responses"].values():
        for name, header in response.get("headers", {}).items():
            if name == "Operation-Location":
                header["format"] = "uri-reference"


def skip(document, _version):
    """Nothing can be skipped backwards."""
    for parameter in document["paths"].get("/listSessions", {}).get("get", {}).get("parameters", []):
        if parameter.get("name") == "skip":
            parameter["minimum"] = 0


EXCEPTIONS = [
    api_version,
    identifier,
    operation_id,
    request,
    accepted,
    shell_status,
    no_content,
    operation_location,
    skip,
]


@schemathesis.hook
def filter_case(_context, case):
    """What no file system can name is refused, though the documents take any text. Fields of a form
    that nobody knows are ignored, though Schemathesis thinks that a form allows no others. Two
    things to run are refused, which the newest document says in words alone. How code is written
    means nothing where there is none, whatever stands there. What is empty in a query is not there."""
    if (case.query or {}).get("recursive") == "":
        return False
    texts = [(case.path_parameters or {}).get("name"), (case.query or {}).get("path")]
    for text in texts:
        for part in str(text or "").split("/"):
            if part in (".", "..") or "\0" in part or len(part.encode("utf-8", "replace")) > 255:
                return False
    if case.operation.label == "POST /files" and isinstance(case.body, dict):
        return set(case.body) <= {"file"}
    if case.operation.label == "POST /executions" and isinstance(case.body, dict):
        ways = [way for way in WAYS if case.body.get(way) is not None]
        return len(ways) < 2 and (ways == ["code"] or "codeInputType" not in case.body)
    return True


# Some identifiers and executions come again, so that there is something to be found.
IDENTIFIERS = ["schemathesis-1", "schemathesis-2"]
OPERATIONS = ["first", "second", "third"]


def one_of(known, given):
    """One of those that come again, or what was given."""
    choices = [*known, given] if isinstance(given, str) and given else [given]
    return choices[len(str(given)) % len(choices)]


@schemathesis.hook
def map_case(context, case):
    if case.headers and "operation-id" in case.headers:
        case.headers["operation-id"] = one_of(OPERATIONS, case.headers["operation-id"])
    if case.path_parameters and "executionId" in case.path_parameters:
        case.path_parameters["executionId"] = one_of(OPERATIONS, case.path_parameters["executionId"])
    if len(str(case.query.get("identifier", ""))) >= 4:
        case.query["identifier"] = one_of(IDENTIFIERS, case.query["identifier"])
    # Without a version an answer has the form of the newest document.
    version = case.operation.schema.raw_schema["info"]["version"]
    if version != DOCUMENTS[-1] and case.query.get("api-version", "") == "":
        case.query["api-version"] = version
    if case.operation.label == "POST /executions" and isinstance(case.body, dict):
        make_harmless(case.body)
    return case


def make_harmless(body):
    """What is no text stays as it is."""
    if isinstance(body.get("code"), str):
        program = PROGRAMS[len(str(body)) % len(PROGRAMS)]
        if str(body.get("codeInputType")).lower() == "inlinebase64":
            program = base64.b64encode(program.encode()).decode()
        body["code"] = program
    if isinstance(body.get("shellCommand"), str):
        body["shellCommand"] = COMMANDS[len(str(body)) % len(COMMANDS)]
