# A value as JSON. Runs once the program has ended, with names of its own; `library` is where the
# standard library is, `show` the source of what shows values as text and as images.


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
    import sys

    return sys.modules.get(name)


def native(value, most):
    pieces, length = [], 0
    for piece in parts(value):
        pieces.append(piece)
        length += size(piece)
        if length > most:
            raise TooLong
    return "".join(pieces)


def cut(text, most):
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


def tell(value, most, jupyter):
    """A value as JSON of at most `most` bytes; without one, `None` asks for the open figure."""
    kind = type(value)
    if jupyter and kind in (bool, int, float, str):
        return cut(repr(value), most)
    if value is not None and not (jupyter and issubclass(kind, (int, float, str))):
        try:
            return native(value, most)
        except NotJson:
            pass
        except TooLong:
            if issubclass(kind, str):
                return cut(str.__str__(value), most)
    names = dict(globals())
    exec(compile(show, "<session>", "exec"), names)
    return names["shown"](value, most)
