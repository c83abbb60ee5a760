# Runs the program beside this file as `python3 main.py` would, and lets report_result.py tell the value of
# its last expression.
#
# Nothing of this stands beneath the program: this file has ended, by an exception, when the
# interpreter flushes the standard streams before it looks at the exception. The first of them is
# a stand-in whose flush is the program. So tracebacks, stacks and warnings are the program's own.
#
# Every program pays for what is in this file; what few need is in report_result.py.


def run(main, name, marker, settings, later):
    # These are loaded already or built in: no file of the program can take their place.
    import _io
    import os
    import sys

    del main["run"]
    beside = main["__file__"]
    try:
        os.unlink(beside)
    except OSError:
        pass
    path = os.path.join(os.path.dirname(beside), name)
    given = sys.argv[0]
    sys.argv[0] = name
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[sys.orig_argv.index(given)] = name
    library = sys.path[1:]
    try:
        # The program starts elsewhere than in its own folder, from where it can import itself.
        if sys.path[0] != os.getcwd():
            sys.path.append(sys.path[0])
            sys.path[0] = os.getcwd()
    except (OSError, IndexError):
        pass
    stderr = sys.stderr
    # A number that programs do not come to by themselves, so that theirs stay the same.
    try:
        out = os.dup2(2, 100, inheritable=False)
    except OSError:
        try:
            out = os.dup(2)
        except OSError:
            out = None
    names = {
        "__builtins__": __builtins__,
        "display": sys.__excepthook__,
        "library": library,
        "marker": marker,
        "os": os,
        "sys": sys,
        "TextIOWrapper": _io.TextIOWrapper,
        "out": (out, out and os.fstat(out)[1:3]),
        "process": os.getpid(),
    }

    def last(what, *arguments):
        """Calls a function of report_result.py."""
        if later:
            names.update(settings)
            exec(compile(later.pop(), "<session>", "exec"), names)
        return names[what](*arguments)

    values = names["values"] = []

    class Value:
        """Stands in the program's code before the last expression: `Value() @ expression`."""

        def __matmul__(self, value):
            values.append(value is not None)
            if value is not None:
                tell(value)

    def tell(value):
        try:
            last("tell", value)
        except BaseException:
            pass

    def compiled():
        with open(path, "rb") as file:
            tree = compile(file.read(), path, "exec", 0x400, dont_inherit=True)
        told = compile("0 @ 0", path, "exec", 0x400).body[0]
        final = tree.body[-1] if tree.body else None
        if type(final) is not type(told):
            return compile(tree, path, "exec", dont_inherit=True)
        if len(tree.body) > 1 or type(getattr(final.value, "value", None)) is not str:
            # What is not a docstring.
            tree.body.pop()
        placeholder = told.value.left.value = marker.decode()
        told.value.right = final.value
        for node in told, told.value, told.value.left:
            for key in final._attributes:
                setattr(node, key, getattr(final.value, key))
        tree.body.append(told)
        code = compile(tree, path, "exec", dont_inherit=True)
        consts = [Value() if type(one) is str and one == placeholder else one for one in code.co_consts]
        return code.replace(co_consts=tuple(consts))

    # What the compiler warns of is shown once.
    sys.stderr = warnings = _io.StringIO()
    try:
        code = compiled()
    except BaseException as error:
        # The interpreter says best by itself what is wrong with the program.
        sys.stderr = stderr
        try:
            os.execv(sys.executable, [sys.executable, path] + sys.argv[1:])
        except OSError:
            sys.exit(last("report", error.with_traceback(None)))
    sys.stderr = stderr
    if stderr and warnings.getvalue():
        stderr.write(warnings.getvalue())

    main["__file__"] = path
    main["__loader__"] = type(main["__loader__"])("__main__", path)
    program = type(compiled)(code, main)
    # Comes to know the exception that ended the program as its context.
    finished = Exception()

    class Raw:
        closed = False

        def readable(self):
            return True

        def tell(self):
            return 0

        def close(self):
            self.closed = True
            raise finished

    class Flush:
        """What the interpreter flushes is closed instead; that flushes first, which is to run the
        program, and closes what is beneath then, which raises `finished`."""

        is_started = False

        def __get__(self, flushed, kind):
            if sys.stderr is flushed:
                sys.stderr = stderr
                return flushed.close
            self.is_started = True
            if sys.version_info < (3, 12):
                # Calls in C count as those in Python do, and that of `close` is one.
                get, set = sys.getrecursionlimit, sys.setrecursionlimit
                set(get() + 1)
                sys.getrecursionlimit = lambda: get() - 1
                sys.setrecursionlimit = lambda limit, /: set(limit + 1 if limit > 0 else limit)
            return program

    flush = Flush()

    class End(SystemExit):
        @property
        def code(self):
            """What the interpreter exits with, which it asks for when the program has ended."""
            error = finished.__context__
            if not flush.is_started:
                try:
                    program()
                except BaseException as raised:
                    error = raised.with_traceback(raised.__traceback__.tb_next)
            status = 0
            if error is not None:
                if issubclass(type(error), SystemExit):
                    return error.code
                status = last("report", error)
            elif True not in values and ("matplotlib.pyplot" in sys.modules or values and settings["jupyter"]):
                tell(None)
            # As the interpreter does before threads are awaited and exit handlers run.
            for name in "__file__", "__cached__":
                main.pop(name, None)
            return status

    sys.stderr = type("StandIn", (_io.BufferedReader,), {"flush": flush})(Raw())
    raise End
