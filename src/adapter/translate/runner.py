# Runs the program beside this file as `python3 main.py` would, and tells the value of its last
# expression on standard error, between markers.
#
# Nothing of this stands beneath the program: this file has ended, by an exception, when the
# interpreter flushes the standard streams before it looks at the exception. The first of them is
# a stand-in whose flush is the program. So tracebacks, stacks and warnings are the program's own.


def run(main, name, marker, most, jupyter, tell, show):
    # These are loaded already or built in: no file of the program can take their place.
    import _ast
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
    sys.argv[0] = os.path.join(os.path.dirname(given), name)
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[sys.orig_argv.index(given)] = sys.argv[0]
    try:
        sys.path[0] = os.getcwd()
    except (OSError, IndexError):
        pass
    library = sys.path[1:]
    stderr = sys.stderr
    recursion = sys.getrecursionlimit, sys.setrecursionlimit
    display = sys.__excepthook__
    process = os.getpid()

    # A number that programs do not come to by themselves, so that theirs stay the same.
    try:
        out = os.dup2(2, 100, inheritable=False)
    except OSError:
        try:
            out = os.dup(2)
        except OSError:
            out = -1
    try:
        identity = os.fstat(out)[1:3]
    except OSError:
        identity = None

    class Value:
        """Stands in the program's code before the last expression: `Value() @ expression`."""

        is_none = False
        is_told = False

        def __matmul__(self, value):
            self.is_none = value is None
            if not self.is_none:
                self.tell(value)

        def tell(self, value):
            self.is_told = True
            if os.getpid() != process:
                return
            try:
                if os.fstat(out)[1:3] != identity:
                    return
                for stream in sys.stdout, sys.stderr:
                    if type(stream) is _io.TextIOWrapper:
                        stream.flush()
            except BaseException:
                pass
            try:
                os.set_blocking(out, True)
                os.write(out, marker + b"?")
                names = {"__builtins__": __builtins__, "library": library, "show": show}
                exec(compile(tell, "<session>", "exec"), names)
                text = names["tell"](value, most, jupyter)
                # What fits into 4096 bytes is written in one piece, whoever else writes there.
                for at in range(0, len(text), 1000):
                    part = text[at : at + 1000].encode()
                    os.write(out, marker + b"<" + part + marker + b">")
            except BaseException:
                pass

    value = Value()

    def compiled():
        with open(path, "rb") as file:
            tree = compile(file.read(), path, "exec", 0x400, dont_inherit=True)
        last = tree.body[-1] if tree.body else None
        if type(last) is not _ast.Expr:
            return compile(tree, path, "exec", dont_inherit=True)
        if len(tree.body) > 1 or type(getattr(last.value, "value", None)) is not str:
            # What is not a docstring.
            tree.body.pop()
        place = {key: getattr(last, key) for key in last._attributes}
        placeholder = marker.decode()
        first = _ast.Constant(placeholder, None, **place)
        told = _ast.BinOp(first, _ast.MatMult(), last.value, **place)
        tree.body.append(_ast.Expr(told, **place))
        code = compile(tree, path, "exec", dont_inherit=True)
        consts = (value if type(one) is str and one == placeholder else one for one in code.co_consts)
        return code.replace(co_consts=tuple(consts))

    # What the compiler warns of is shown once.
    sys.stderr = warnings = _io.StringIO()
    try:
        code = compiled()
    except BaseException as error:
        # The interpreter says best by itself what is wrong with the program.
        sys.stderr = stderr
        try:
            os.execv(sys.executable, [sys.executable] + sys.argv)
        except OSError:
            display(type(error), error, None)
            sys.exit(1)
    sys.stderr = stderr
    if stderr and warnings.getvalue():
        stderr.write(warnings.getvalue())

    main["__file__"] = path
    main["__loader__"] = type(main["__loader__"])("__main__", path)
    program = type(compiled)(code, main)

    class Finished(Exception):
        """Comes to know the exception that ended the program as its context."""

    finished = Finished()

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
                # The call of `close` counts, with C and Python in one count.
                hide_one_call()
            return program

    flush = Flush()
    stand_in = type("StandIn", (_io.BufferedReader,), {"flush": flush})

    def hide_one_call():
        get, set = recursion

        def getrecursionlimit():
            return get() - 1

        def setrecursionlimit(limit, /):
            set(limit + 1 if type(limit) is int and limit > 0 else limit)

        set(get() + 1)
        sys.getrecursionlimit = getrecursionlimit
        sys.setrecursionlimit = setrecursionlimit

    def report(error):
        kind, trace = type(error), error.__traceback__
        sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
        if sys.version_info >= (3, 12):
            sys.last_exc = error
        try:
            sys.excepthook(kind, error, trace)
        except SystemExit as exit:
            return exit.code
        except BaseException as other:
            if sys.stderr:
                sys.stderr.write("Error in sys.excepthook:\n")
                display(type(other), other, other.__traceback__.tb_next)
                sys.stderr.write("\nOriginal exception was:\n")
                display(kind, error, trace)
        return 130 if issubclass(kind, KeyboardInterrupt) else 1

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
            if error is None:
                code = 0
                if not value.is_told and (value.is_none and jupyter or "matplotlib.pyplot" in sys.modules):
                    value.tell(None)
            elif issubclass(type(error), SystemExit):
                return error.code
            else:
                code = report(error)
            # As the interpreter does before threads are awaited and exit handlers run.
            for name in "__file__", "__cached__":
                main.pop(name, None)
            return code

    sys.stderr = stand_in(Raw())
    raise End
