# A value that JSON does not have: as an image, or as the text that IPython shows. Runs with the
# names of report_result.py.

import _thread
from _io import BytesIO

WIDTH = 79
MOST_ITEMS = 1000


def shown(value):
    streams = sys.stdout, sys.stderr
    thread = _thread.get_ident()

    class Mute:
        """A stream on which this thread, but no other, writes in vain: the program would not have
        written what comes of looking at its value."""

        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            if name in ("write", "writelines") and _thread.get_ident() == thread:
                return lambda text: None
            return getattr(self.stream, name)

    sys.stdout, sys.stderr = (stream and Mute(stream) for stream in streams)
    try:
        figure = figure_of(value)
        json = image(figure, value) if figure or is_picture(value) else None
        if json or value is None:
            return json or ("null" if jupyter and values else "")
        return cut(text_of(value))
    finally:
        sys.stdout, sys.stderr = streams


# Images: of a figure, of what is drawn in one, and of a picture.


def figure_of(value):
    pyplot = loaded("matplotlib.pyplot")
    if value is None:
        return pyplot.gcf() if pyplot and pyplot.get_fignums() else None
    artist = loaded("matplotlib.artist")
    drawn = artist and drawn_in(value, artist.Artist)
    figure = drawn and drawn.get_figure() if drawn else None
    while figure and not hasattr(figure, "savefig"):
        figure = figure.get_figure() if figure.get_figure() is not figure else None
    return figure


def drawn_in(value, artist, depth=0):
    """The first artist in what a function that draws has returned."""
    kind = type(value)
    if issubclass(kind, artist):
        return value
    if kind.__module__.startswith("seaborn"):
        return getattr(value, "figure", None)
    numpy = loaded("numpy")
    if numpy and issubclass(kind, numpy.ndarray):
        items = value.flat if value.dtype.kind == "O" else ()
    elif issubclass(kind, (list, tuple)):
        items = value
    elif kind is dict:
        items = value.values()
    else:
        return None
    for _, item in zip(range(100), items if depth < 3 else ()):
        found = drawn_in(item, artist, depth + 1)
        if found is not None:
            return found
    return None


def is_picture(value):
    pil = loaded("PIL.Image")
    return bool(pil) and issubclass(type(value), pil.Image)


def image(figure, picture):
    """`None` where the image is too large."""
    def png(save, *arguments, **options):
        file = BytesIO()
        save(file, *arguments, **options)
        data = standard("binascii").b2a_base64(file.getvalue(), newline=False).decode()
        json = '{"type": "image", "format": "png", "base64_data": "%s"}' % data
        return json if len(json) <= most else None

    if figure is None:
        if picture.mode not in ("1", "L", "LA", "I", "P", "RGB", "RGBA"):
            picture = picture.convert("RGB")
        json = png(picture.save, "PNG")
        while json is None and max(picture.size) > 64:
            picture = picture.resize([max(1, side // 2) for side in picture.size])
            json = png(picture.save, "PNG")
        return json
    for dpi in "figure", 50, 25:
        json = png(figure.savefig, format="png", bbox_inches="tight", dpi=dpi)
        if json:
            return json
    return None


def standard(name):
    """A module of the standard library, whatever files the program has beside it."""
    if name not in sys.modules:
        path, sys.path = sys.path, library
        try:
            __import__(name)
        finally:
            sys.path = path
    return sys.modules[name]


# Text: the layout. A group that does not fit on its line breaks at each of its breaks, the
# outermost first.


class Full(Exception):
    """The text is as long as it may be."""


class Group:
    def __init__(self, depth):
        self.depth = depth
        self.breaks = 0
        self.is_broken = False


class Printer:
    """Has the methods that `_repr_pretty_` calls."""

    def __init__(self):
        self.left = most
        self.written = []
        self.column = 0
        self.indentation = 0
        self.held = []
        self.held_width = 0
        self.groups = [Group(0)]
        self.levels = [[self.groups[0]]]
        self.inside = []
        self.max_seq_length = MOST_ITEMS
        self.max_width = WIDTH
        self.verbose = False

    def text(self, text):
        self.left -= len(text)
        if self.held:
            self.held.append(text)
            self.held_width += len(text)
            self.fit()
        else:
            self.written.append(text)
            self.column += len(text)
        if self.left < 0:
            raise Full

    def breakable(self, sep=" "):
        group = self.groups[-1]
        if group.is_broken:
            self.break_()
        else:
            self.held.append((sep, self.indentation, group))
            self.held_width += len(sep)
            group.breaks += 1
            self.fit()

    def break_(self):
        self.flush()
        self.written.append("\n" + " " * self.indentation)
        self.left -= 1 + self.indentation
        self.column = self.indentation
        self.held_width = 0

    def flush(self):
        held, self.held = self.held, []
        for item in held:
            self.release(item)

    def release(self, item):
        if type(item) is str:
            self.written.append(item)
            self.held_width -= len(item)
            self.column += len(item)
            return
        sep, indentation, group = item
        group.breaks -= 1
        self.held_width -= len(sep)
        if group.is_broken:
            self.written.append("\n" + " " * indentation)
            self.column = indentation
            return
        if not group.breaks:
            self.forget(group)
        self.written.append(sep)
        self.column += len(sep)

    def fit(self):
        while self.column + self.held_width > WIDTH:
            group = self.outermost()
            if group is None:
                return
            at = 0
            while group.breaks:
                self.release(self.held[at])
                at += 1
            while at < len(self.held) and type(self.held[at]) is str:
                self.release(self.held[at])
                at += 1
            del self.held[:at]

    def outermost(self):
        for level in self.levels:
            for group in reversed(level):
                if group.breaks:
                    level.remove(group)
                    group.is_broken = True
                    return group
            for group in level:
                group.is_broken = True
            level.clear()
        return None

    def forget(self, group):
        if group in self.levels[group.depth]:
            self.levels[group.depth].remove(group)

    def begin_group(self, indent=0, open=""):
        if open:
            self.text(open)
        group = Group(len(self.groups))
        self.groups.append(group)
        if len(self.levels) <= group.depth:
            self.levels.append([])
        self.levels[group.depth].append(group)
        self.indentation += indent

    def end_group(self, dedent=0, close=""):
        self.indentation -= dedent
        group = self.groups.pop()
        if not group.breaks:
            self.forget(group)
        if close:
            self.text(close)

    def group(self, indent=0, open="", close=""):
        printer = self

        class Within:
            def __enter__(self):
                printer.begin_group(indent, open)

            def __exit__(self, *_):
                printer.end_group(indent, close)

        return Within()

    def items(self, open, items, close):
        """`items` are functions of nothing that each print one."""
        self.begin_group(len(open), open)
        for index, item in enumerate(items):
            if index:
                self.text(",")
                self.breakable()
            if index == MOST_ITEMS:
                self.text("...")
                break
            item()
        self.end_group(len(open), close)

    def call(self, name, *arguments, **named):
        def pair(key, value):
            self.begin_group(len(key) + 1, key + "=")
            self.pretty(value)
            self.end_group(len(key) + 1)

        items = [lambda item=item: self.pretty(item) for item in arguments]
        items += [lambda key=key, value=value: pair(key, value) for key, value in named.items()]
        self.items(name + "(", items, ")")

    def pretty(self, value):
        is_cycle = id(value) in self.inside
        self.inside.append(id(value))
        self.begin_group()
        printer, own = printer_of(value)
        if printer == "_repr_pretty_":
            own._repr_pretty_(value, self, is_cycle)
        else:
            printer(value, self, is_cycle)
        self.end_group()
        self.inside.pop()


# Text: what the types look like.


def printer_of(value):
    for kind in type.mro(type(value)):
        if kind in PRINTERS:
            return PRINTERS[kind], kind
        own = vars(kind)
        name = own.get("__module__"), kind.__name__
        if name in NAMED_PRINTERS:
            return NAMED_PRINTERS[name], kind
        if callable(own.get("_repr_pretty_")):
            return "_repr_pretty_", kind
        if kind is not object and "__repr__" in own:
            return as_repr, kind
    return as_object, object


def as_repr(value, out, is_cycle=False):
    out.begin_group()
    for index, line in enumerate(str.splitlines(repr(value))):
        if index:
            out.break_()
        out.text(str.__str__(line))
    out.end_group()


def as_object(value, out, is_cycle):
    out.begin_group(1, "<")
    out.pretty(type(value))
    out.text(" at 0x%x" % id(value))
    out.end_group(1, ">")


def as_sequence(value, out, is_cycle):
    open, close = "[]" if isinstance(value, list) else "()"
    if is_cycle:
        return out.text(open + "..." + close)
    if len(value) == 1 and open == "(":
        close = ",)"
    out.items(open, (lambda item=item: out.pretty(item) for item in value), close)


def as_set(open, close):
    def as_this_set(value, out, is_cycle):
        if is_cycle:
            return out.text(open + "..." + close)
        if not len(value):
            return out.text(type(value).__name__ + "()")
        items = value if len(value) >= MOST_ITEMS else in_order(value)
        out.items(open, (lambda item=item: out.pretty(item) for item in items), close)

    return as_this_set


def in_order(items):
    try:
        return sorted(items)
    except Exception:
        return sorted(items, key=str)


def as_mapping(open, close):
    def as_this_mapping(value, out, is_cycle):
        def item(key):
            out.pretty(key)
            out.text(": ")
            out.pretty(value[key])

        if is_cycle:
            return out.text("{...}")
        out.items(open, (lambda key=key: item(key) for key in value.keys()), close)

    return as_this_mapping


def as_type(value, out, is_cycle):
    if next(kind for kind in type.mro(type(value)) if "__repr__" in vars(kind)) is not type:
        return as_repr(value, out)
    module, name = value.__module__, value.__qualname__
    out.text(name if module in (None, "builtins") else module + "." + name)


def as_function(value, out, is_cycle):
    name = value.__qualname__
    if value.__module__ and value.__module__ != "builtins":
        name = value.__module__ + "." + name
    try:
        name += str(standard("inspect").signature(value))
    except Exception:
        pass
    out.text("<function %s>" % name)


def as_exception(value, out, is_cycle):
    kind = type(value)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = kind.__module__ + "." + name
    out.call(name, *value.args)


def as_pattern(value, out, is_cycle):
    names = "IGNORECASE", "LOCALE", "MULTILINE", "DOTALL", "UNICODE", "VERBOSE", "DEBUG"
    re = standard("re")
    flags = "|".join("re." + name for name in names if value.flags & getattr(re, name))
    pattern = "r" + repr(value.pattern).replace("\\\\", "\\")
    items = [lambda text=text: out.text(text) for text in (pattern, flags) if text]
    out.items("re.compile(", items, ")")


class Dots:
    def __repr__(self):
        return "..."


def as_call(arguments):
    """The class of the value, called with what makes an equal one."""

    def as_this_call(value, out, is_cycle):
        out.call(type(value).__name__, *((Dots(),) if is_cycle else arguments(value)))

    return as_this_call


def as_deque(value, out, is_cycle):
    named = {} if value.maxlen is None or is_cycle else {"maxlen": value.maxlen}
    out.call(type(value).__name__, Dots() if is_cycle else list(value), **named)


def as_namespace(value, out, is_cycle):
    if is_cycle:
        return out.call("namespace", Dots())
    out.call("namespace", **vars(value))


def printers():
    return {
        list: as_sequence,
        tuple: as_sequence,
        dict: as_mapping("{", "}"),
        set: as_set("{", "}"),
        frozenset: as_set("frozenset({", "})"),
        type: as_type,
        type(tell): as_function,
        type(len): as_function,
        type(sys.implementation): as_namespace,
        type(vars(type)): as_mapping("mappingproxy({", "})"),
        type(os.environ): as_mapping("environ{", "}"),
        BaseException: as_exception,
    }


PRINTERS = printers()
NAMED_PRINTERS = {
    ("re", "Pattern"): as_pattern,
    ("collections", "defaultdict"): as_call(lambda value: (value.default_factory, dict(value))),
    ("collections", "OrderedDict"): as_call(lambda value: (list(value.items()),) * bool(value)),
    ("collections", "Counter"): as_call(lambda value: (dict(value.most_common()),) * bool(value)),
    ("collections", "UserList"): as_call(lambda value: (value.data,)),
    ("collections", "deque"): as_deque,
}


def text_of(value):
    out = Printer()
    try:
        out.pretty(value)
    except Full:
        pass
    out.flush()
    return "".join(out.written)
