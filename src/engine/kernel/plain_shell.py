"""Runs cells without IPython: state, values, top-level await, figures, `!command` and `%pip`."""

import ast
import asyncio
import builtins
import contextvars
import inspect
import io
import linecache
import pprint
import re
import subprocess
import sys
import tokenize
import traceback

# Of so many cells the source is kept, for tracebacks and `inspect`.
KEPT_CELLS = 1000
SYSTEM = re.compile(r"^(\s*)(?:([\w, ]+?)\s*=\s*)?!(.*)$", re.M)
PIP = re.compile(r"^(\s*)%pip\b(.*)$", re.M)
FORMS = {
    "text/html": "_repr_html_", "text/markdown": "_repr_markdown_", "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_", "image/png": "_repr_png_", "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}


def system(command):
    sys.stdout.flush()
    subprocess.call(command, shell=True)


def getoutput(command):
    done = subprocess.run(command, shell=True, text=True, errors="replace", check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.splitlines()


def is_silent(source):
    """Whether a cell ends in a semicolon, whatever comment follows it."""
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type not in blank][-1:] == [";"]


def use_figures():
    try:
        import matplotlib
    except ImportError:
        return
    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use(f"module://{__name__}")


def bundle_of(value):
    """A value in each MIME type in which it shows itself."""
    long = isinstance(value, (list, tuple, dict, set, frozenset))
    data = {"text/plain": pprint.pformat(value, sort_dicts=False) if long else repr(value)}
    metadata = {}
    for kind, method in FORMS.items():
        if isinstance(value, type) or not hasattr(value, method):
            continue
        shown = getattr(value, method)()
        if isinstance(shown, tuple):
            shown, metadata[kind] = shown
        if shown is not None:
            data[kind] = shown
    if not isinstance(value, type) and hasattr(value, "_repr_mimebundle_"):
        shown = value._repr_mimebundle_()
        if isinstance(shown, tuple):
            shown, more = shown
            metadata.update(more)
        data.update(shown or {})
    return data, metadata


def __getattr__(name):
    # This module is Matplotlib's backend.
    if name == "FigureCanvas":
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        return FigureCanvasAgg
    raise AttributeError(name)


def show(*_, **__):
    Shell.current.show_figures()


class Shell:
    ipython = None
    current = None

    def __init__(self, kernel):
        Shell.current = self
        self.kernel = kernel
        self.names = vars(sys.modules["__main__"])
        self.names.update(
            __builtins__=builtins, exit=sys.exit, quit=sys.exit, display=self.display,
            _session_system=system, _session_getoutput=getoutput,
        )
        self.context = contextvars.copy_context()
        self.count = 0

    def display(self, *values, **_):
        for value in values:
            self.kernel.show(*bundle_of(value))

    def show_figures(self):
        pyplot = sys.modules.get("matplotlib.pyplot")
        for number in pyplot.get_fignums() if pyplot else ():
            figure, png = pyplot.figure(number), io.BytesIO()
            figure.savefig(png, format="png", bbox_inches="tight")
            self.kernel.show({"image/png": png.getvalue(), "text/plain": repr(figure)})
            pyplot.close(figure)

    async def run(self, code):
        self.count += 1
        name = f"<cell {self.count}>"
        try:
            source = self.translate(code)
            linecache.cache.pop(f"<cell {self.count - KEPT_CELLS}>", None)
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            if "matplotlib" in source:
                use_figures()
            # Evaluated here, for no coroutine lets a StopIteration pass.
            for code, is_value in self.parts(source, name):
                value = eval(code, self.names)
                if code.co_flags & inspect.CO_COROUTINE:
                    value = await value
                if is_value:
                    self.tell(value)
            self.show_figures()
        except SystemExit as end:
            self.show_figures()
            return end.code if isinstance(end.code, (int, str)) else int(end.code is not None)
        except BaseException as error:
            interrupts = (KeyboardInterrupt, asyncio.CancelledError)
            if self.kernel.is_interrupted and isinstance(error, interrupts):
                self.kernel.complain("KeyboardInterrupt")
                return 1
            self.kernel.without_own_frames(error)
            # As an interactive Python does; it also keeps what the frames hold from being freed now.
            sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            self.kernel.complain("".join(lines).rstrip("\n"))
            return 1
        return 0

    def translate(self, code):
        code = code.replace("\r\n", "\n")
        try:
            ast.parse(code)
            return code
        except SyntaxError:
            # Only then, so that no line of a string is taken for a command.
            code = PIP.sub(r"\1!" + sys.executable + r" -m pip\2", code)
            return SYSTEM.sub(self.command, code)

    @staticmethod
    def command(found):
        indent, target, command = found.groups()
        if target:
            return f"{indent}{target} = _session_getoutput({command!r})"
        return f"{indent}_session_system({command!r})"

    def parts(self, source, name):
        """The code of a cell, and of its last expression, which is a value."""
        tree = ast.parse(source, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not is_silent(source):
            last = ast.Expression(tree.body.pop().value)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if tree.body:
            yield compile(tree, name, "exec", flags), False
        if last is not None:
            yield compile(last, name, "eval", flags), True

    def tell(self, value):
        self.kernel.expression_is_none = value is None
        if value is None:
            return
        self.names["_"] = value
        self.kernel.set_result(value, *bundle_of(value))
