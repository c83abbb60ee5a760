"""Runs cells in IPython's shell, as a notebook does."""

import asyncio
import collections
import contextvars
import importlib.util
import linecache
import os
import subprocess
import sys
import types
import warnings

import IPython
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

# Of so many cells the source is kept, as IPython keeps so many values.
KEPT_CELLS = 1000


class Sources(CachingCompiler):
    """Keeps the sources of the last cells, for tracebacks and `inspect`."""

    def __init__(self):
        super().__init__()
        self.names = collections.deque()

    def cache(self, *args, **kwargs):
        name = super().cache(*args, **kwargs)
        self.names.append(name)
        if len(self.names) > KEPT_CELLS:
            oldest = self.names.popleft()
            linecache.cache.pop(oldest, None)
            self._filename_map.pop(oldest, None)
        return name


class Result(DisplayHook):
    """Hands over the value of a cell's last expression."""

    def __call__(self, result=None):
        self.value = result
        self.shell.kernel.cells.expression_is_none = result is None
        super().__call__(result)
        self.value = None

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.kernel.cells.set_result(self.value, format_dict, md_dict)

    def finish_displayhook(self):
        pass


class Display(DisplayPublisher):
    """Hands over what a cell displays."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_):
        display_id = (transient or {}).get("display_id")
        self.shell.kernel.cells.show(data, metadata, display_id, update)

    def clear_output(self, wait=False):
        self.shell.kernel.cells.clear(wait)


class ZMQInteractiveShell(InteractiveShell):
    """IPython's shell. Libraries recognize a notebook by this name and by the attribute `kernel`."""

    # Some look at the module, too.
    __module__ = "ipykernel.zmqshell"
    displayhook_class = Result
    display_pub_class = Display
    compiler_class = Sources

    def init_virtualenv(self):
        pass

    def enable_gui(self, gui=None):
        pass

    def ask_exit(self):
        raise SystemExit

    def system_piped(self, cmd):
        sys.stdout.flush()
        command = self.var_expand(cmd, depth=1)
        code = subprocess.call(command, shell=True, executable="/bin/bash")
        self.user_ns["_exit_code"] = code

    system = system_piped

    def getoutput(self, cmd, split=True, depth=0):
        command = self.var_expand(cmd, depth=depth + 1)
        out = subprocess.run(
            command, shell=True, executable="/bin/bash", text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        ).stdout
        return IPython.utils.text.SList(out.splitlines()) if split else out

    def showtraceback(self, exc_tuple=None, *args, **kwargs):
        kind = (exc_tuple or sys.exc_info())[0]
        if kind is SystemExit:
            return
        if kind is asyncio.CancelledError and self.kernel.cells.is_interrupted:
            self.kernel.cells.complain("KeyboardInterrupt")
            return
        error = (exc_tuple or sys.exc_info())[1]
        if error is not None:
            self.kernel.cells.without_own_frames(error)
            exc_tuple = (kind, error, error.__traceback__)
        super().showtraceback(exc_tuple, *args, **kwargs)

    def _showtraceback(self, etype, evalue, stb):
        self.kernel.cells.complain(self.InteractiveTB.stb2text(stb))


class Shell:
    ipython = IPython.__version__

    def __init__(self, kernel):
        if importlib.util.find_spec("matplotlib_inline"):
            os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        main = sys.modules["__main__"]
        # Must be there when the shell is made, which puts its hooks to use.
        ZMQInteractiveShell.kernel = types.SimpleNamespace(cells=kernel)
        self.shell = ZMQInteractiveShell.instance(config=config, user_module=main, user_ns=vars(main))
        # As in a notebook, where it is always there.
        self.shell.extension_manager.load_extension("storemagic")
        self.shell.user_ns.update(exit=sys.exit, quit=sys.exit)
        # `sys.exit` ends a cell; there is nothing else to exit from.
        warnings.filterwarnings("ignore", "To exit: use", UserWarning)
        self.context = contextvars.copy_context()

    async def run(self, code):
        shell = self.shell
        failure = None
        try:
            transformed = shell.transform_cell(code)
        except Exception:
            transformed, failure = code, sys.exc_info()
        result = await shell.run_cell_async(
            code, store_history=True, transformed_cell=transformed, preprocessing_exc_tuple=failure
        )
        shell.events.trigger("post_execute")
        shell.events.trigger("post_run_cell", result)
        self.forget(shell.execution_count - KEPT_CELLS)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, (int, str)) else int(error.code is not None)
        return int(error is not None)

    def forget(self, number):
        """Forgets the input of an old cell."""
        history = self.shell.history_manager
        # No database takes it over.
        history.db_input_cache.clear()
        if 0 < number < len(history.input_hist_raw):
            history.input_hist_raw[number] = history.input_hist_parsed[number] = ""
            for names in (self.shell.user_ns, self.shell.user_ns_hidden):
                names.pop(f"_i{number}", None)
