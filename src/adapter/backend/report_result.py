# What happens at the end of a program that has a value or fails. The names that this file does not
# define come from runner.py: `display`, the interpreter's own way to show an exception; `library`,
# where the standard library is; `marker`; `out`, where values are told, and which file that is;
# `process`, the one whose value counts; the settings `most`, `jupyter` and `show`, the source of what
# shows values as text and as images; and `os`, `sys` and `TextIOWrapper`, because an import could find
# a file of the program.


def report(error):
    """Shows the exception that ended the program as the interpreter does; the exit code."""
    kind, trace = type(error), error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        hook = sys.excepthook
    except AttributeError:
        complain("sys.excepthook is missing\n")
        hook = display
    try:
        hook(kind, error, trace)
    except SystemExit as exit:
        return exit.code
    except BaseException as other:
        complain("Error in sys.excepthook:\n")
        # The first entry is this function's.
        trace_of_hook = other.__traceback__.tb_next
        display(type(other), other.with_traceback(trace_of_hook), trace_of_hook)
        complain("\nOriginal exception was:\n")
        display(kind, error, trace)
    return 130 if issubclass(kind, KeyboardInterrupt) else 1


def complain(text):
    if sys.stderr:
        sys.stderr.write(text)


def tell(value):
    """Writes a value, unless this is a process that the program has forked."""
    number, identity = out
    if os.getpid() != process or number is None or os.fstat(number)[1:3] != identity:
        return
    # What has been printed is not lost where the engine has no room for the value.
    for stream in sys.stdout, sys.stderr:
        if type(stream) is TextIOWrapper:
            try:
                stream.flush()
            except Exception:
                pass
    os.set_blocking(number, True)
    os.write(number, marker + b"?")
    text = json_of(value)
    # What fits into 4096 bytes is written in one piece, whoever else writes there.
    for at in range(0, len(text), 1000):
        part = text[at : at + 1000].encode()
        os.write(number, marker + b"<" + part + marker + b">")


class NotJson(Exception):
    """The value, or something in it, is nothing that JSON has."""


class TooLong(Exception):
    """The JSON is longer than it may be."""


ESCAPES = {number: "\\u%04x" % number for number in range(32)}
ESCAPES.update({ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t"})
# Many readers of JSON give up at 64.
DEEPEST = 50


def quote(text):
    text = str.translate(text, ESCAPES)
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return '"' + text + '"'


def size(json):
    return len(json) if json.isascii() else len(json.encode())


def parts(value, depth=0):
    """The JSON of a value piece by piece."""
    kind = type(value)
    if value is None:
        yield "null"
    elif kind is bool:
        yield "true" if value else "false"
    elif issubclass(kind, str):
        yield quote(str.__str__(value))
    elif issubclass(kind, int):
        yield int.__repr__(value)
    elif issubclass(kind, float):
        text = float.__repr__(value)
        if text[-1] in "nf":
            raise NotJson
        yield text
    elif depth == DEEPEST:
        raise NotJson
    elif issubclass(kind, (list, tuple)):
        yield "["
        base = list if issubclass(kind, list) else tuple
        for index, item in enumerate(base.__iter__(value)):
            if index:
                yield ", "
            yield from parts(item, depth + 1)
        yield "]"
    elif issubclass(kind, dict):
        yield "{"
        names = set()
        for key, item in dict.items(value):
            name = str.__str__(key) if issubclass(type(key), str) else "".join(parts(key, DEEPEST))
            if name in names:
                raise NotJson
            yield (", " if names else "") + quote(name) + ": "
            names.add(name)
            yield from parts(item, depth + 1)
        yield "}"
    else:
        yield from parts(number(value), DEEPEST)


def number(value):
    """What a scalar of numpy is in Python."""
    numpy = loaded("numpy")
    if numpy and issubclass(type(value), numpy.generic) and value.dtype.kind in "biuf":
        value = value.item()
        if type(value) in (bool, int, float):
            return value
    raise NotJson


def loaded(name):
    return sys.modules.get(name)


def native(value):
    pieces, length = [], 0
    for piece in parts(value):
        pieces.append(piece)
        length += size(piece)
        if length > most:
            raise TooLong
    return "".join(pieces)


def cut(text):
    """The JSON of as much of a text as may be."""
    if len(text) <= most:
        json = quote(text)
        if size(json) <= most:
            return json
    end = min(len(text), most)
    while True:
        json = quote(text[:end] + "…")
        if end == 0 or size(json) <= most:
            return json
        end = min(end - 1, end * most // size(json))


def json_of(value):
    """A value as JSON of at most `most` bytes; for none, the figure that is open."""
    kind = type(value)
    if jupyter and kind in (bool, int, float, str):
        return cut(repr(value))
    if value is not None and not (jupyter and issubclass(kind, (int, float, str))):
        try:
            return native(value)
        except NotJson:
            pass
        except TooLong:
            if issubclass(kind, str):
                return cut(str.__str__(value))
    names = dict(globals())
    exec(compile(show, "<session>", "exec"), names)
    return names["shown"](value)
