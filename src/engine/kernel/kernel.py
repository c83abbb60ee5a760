"""The process in which a session's Python lives: runs one cell after the other.

The engine holds the other end of the socket on descriptor 3. Each message is JSON after its length
(four bytes, little-endian). A cell arrives with the descriptors of its standard streams; between cells
these are /dev/null, so that nothing which is left running prints into a later cell.
"""

import asyncio
import base64
import ctypes
import importlib
import io
import json
import os
import signal
import socket
import struct
import sys
import threading
import types

CONTROL = 3
PR_SET_DUMPABLE = 4  # linux/prctl.h
DIRECTORY = os.path.dirname(os.path.abspath(__file__))
MAX_RICH_BYTES = 32 << 20
# Characters of a value: its text is in a response several times.
MAX_VALUE = 1 << 20
# Many readers of JSON give up beyond it.
MAX_DEPTH = 64
# Their threads serve every cell, whichever one started them.
SHARED_THREADS = ("asyncio.", "concurrent.futures.", "multiprocessing.")


class CellStream(io.TextIOWrapper):
    """A standard stream that drops what a thread prints after its cell has ended."""

    kernel = None

    def write(self, text):
        if self.kernel.is_late():
            return len(text)
        if self.kernel.pending_clear:
            self.kernel.clear()
        return super().write(text)


class Outputs:
    """The rich output of one cell."""

    def __init__(self):
        self.bundles = []
        self.bytes = 0
        self.left_out = 0

    def add(self, data, metadata=None, display_id=None, update=False):
        bundle = {"data": encode(data), "metadata": plain_json(metadata or {})}
        size = len(dump(bundle))
        shown = [i for i, (shown_id, _, _) in enumerate(self.bundles) if update and shown_id == display_id]
        freed = sum(self.bundles[i][2] for i in shown)
        if self.bytes - freed + size > MAX_RICH_BYTES:
            self.left_out += 1
            return None
        self.bytes += size - freed
        if not shown:
            self.bundles.append((display_id, bundle, size))
        for i in shown:
            self.bundles[i] = (display_id, bundle, size)
            size = 0
        return bundle

    def clear(self):
        self.bundles.clear()
        self.bytes = 0


class Kernel:
    """Receives cells, runs them in a shell, and reports their results."""

    def __init__(self):
        self.control = socket.socket(fileno=CONTROL)
        self.control.set_inheritable(False)
        self.pid = os.getpid()
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.task = None
        self.code = None
        self.is_interrupted = False
        self.pending_clear = False
        self.value_was_cut = False
        self.outputs = Outputs()
        self.tasks_before = set()
        self.result = None
        self.expression_is_none = False
        self.shell = None

    def start(self, preload):
        if os.environ.pop("SESSION_SHARES_USER", None):
            # Programs of this process's user and group must not be able to trace it.
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        CellStream.kernel = self
        os.register_at_fork(after_in_child=self.control.close)
        start_thread = threading.Thread.start

        def start(thread):
            target = getattr(thread, "_target", None)
            if not str(getattr(target, "__module__", "")).startswith(SHARED_THREADS):
                thread.session_cell = self.number
            start_thread(thread)

        threading.Thread.start = start
        asyncio.set_event_loop(self.loop)
        try:
            from ipython_shell import Shell
        except ImportError:
            from plain_shell import Shell
        self.shell = Shell(self)
        failed = []
        for name in preload:
            try:
                importlib.import_module(name)
            except Exception:
                failed.append(name)
        # From here on the program's own directory means nothing; cells start in the current one.
        sys.path[0] = ""
        sys.argv[:] = [""]
        self.close_streams()
        self.send({"ready": {"ipython": self.shell.ipython, "failed_imports": failed}})
        self.serving = self.loop.create_task(self.serve())
        # Without it no cell could run; the engine tells that the kernel has ended.
        self.serving.add_done_callback(lambda _: os._exit(1))
        while True:
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # Raised in a task that a cell left behind; it ends that task alone.
                pass

    async def serve(self):
        while True:
            readable = self.loop.create_future()
            self.loop.add_reader(self.control, lambda: readable.done() or readable.set_result(None))
            await ended(readable)
            self.loop.remove_reader(self.control)
            request = self.receive()
            if request is None:
                os._exit(0)
            await self.run(*request)

    async def run(self, request, streams):
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        self.number = request["cell"]
        self.outputs = Outputs()
        self.result = None
        self.code = None
        self.expression_is_none = self.is_interrupted = self.pending_clear = False
        self.value_was_cut = False
        self.open_streams()
        self.tasks_before = asyncio.all_tasks(self.loop)
        signal.signal(signal.SIGINT, self.interrupt)
        self.task = self.loop.create_task(self.run_code(request["code"]), **self.context())
        await ended(self.task)
        if self.code is None:
            self.code = self.failure()
        self.task = None
        code = self.finish(self.code)
        self.close_streams()
        if os.getpid() != self.pid:
            os._exit(code)
        self.send({"done": {
            "cell": self.number,
            "code": code,
            "value": {
                "result": self.result,
                "none": self.expression_is_none,
                "outputs": [bundle for _, bundle, _ in self.outputs.bundles],
            },
        }})

    async def run_code(self, code):
        # Kept here, for a cell may cancel its own task and come to its end all the same.
        self.code = await self.shell.run(code)

    def failure(self):
        """Says what ended a cell that the shell did not bring to its end."""
        error = None if self.task.cancelled() else self.task.exception()
        if error is None or isinstance(error, KeyboardInterrupt):
            self.complain("KeyboardInterrupt" if self.is_interrupted else "CancelledError")
        else:
            self.complain(f"{type(error).__name__}: {error}")
        return 1

    def complain(self, text):
        """Writes a line to stderr, whatever the cell has done to it."""
        try:
            print(text, file=sys.stderr)
        except Exception:
            os.write(2, f"{text}\n".encode("utf-8", "replace"))

    def is_late(self):
        """Whether this thread was started by a cell that has ended."""
        thread = threading.current_thread()
        return getattr(thread, "session_cell", None) not in (None, self.number)

    def context(self):
        # Variables of the context last as long as others do.
        if sys.version_info < (3, 11):
            return {}
        return {"context": self.shell.context}

    def finish(self, code):
        """Says what was left out, and makes an exit status of a code."""
        if isinstance(code, str):
            self.complain(code)
            code = 1
        if self.outputs.left_out:
            limit = MAX_RICH_BYTES >> 20
            self.complain(
                f"{self.outputs.left_out} of this cell's outputs were left out: together they are"
                f" larger than {limit} MiB."
            )
        if self.value_was_cut:
            self.complain(f"The value was cut to {MAX_VALUE} characters.")
        return int.__and__(code, 0xFF)

    def open_streams(self):
        for name, number in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, f"__{name}__")
            if not isinstance(stream, CellStream) or stream.closed:
                raw = io.FileIO(number, "w", closefd=False)
                encoding = {"encoding": "utf-8", "line_buffering": True}
                if name == "stderr":
                    encoding["errors"] = "backslashreplace"
                fresh = CellStream(io.BufferedWriter(raw), **encoding)
                fresh.mode = "w"
                setattr(sys, f"__{name}__", fresh)
                # A cell may have put a stream of its own in its place, which stays.
                if getattr(sys, name, None) in (None, stream):
                    setattr(sys, name, fresh)
        replaced = sys.stdin is not sys.__stdin__
        sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
        if not replaced:
            sys.stdin = sys.__stdin__

    def close_streams(self):
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except Exception:
                pass
        for number in range(3):
            os.dup2(self.null, number)

    def interrupt(self, _signal, frame):
        if self.task is None or self.task.done():
            return
        self.is_interrupted = True
        running = asyncio.current_task(self.loop)
        if running is not self.task:
            # The cell awaits something: perhaps tasks of its own, which have not begun yet.
            for task in asyncio.all_tasks(self.loop) - self.tasks_before - {running}:
                task.cancel()
            # Wakes the loop, where it waits for descriptors.
            self.loop.call_soon_threadsafe(lambda: None)
        is_waiting = running is None and frame.f_globals.get("__name__") in ("selectors", "asyncio.base_events")
        if not is_waiting and running is not self.serving:
            raise KeyboardInterrupt

    def clear(self, wait=False):
        """Takes back what the cell has shown so far."""
        if self.task is None or self.is_late():
            return
        self.pending_clear = wait
        if wait:
            return
        self.outputs.clear()
        if threading.current_thread() is not threading.main_thread():
            # Only one thread may wait for the engine's reply; what was printed stays.
            return
        for stream in (sys.__stdout__, sys.__stderr__):
            stream.flush()
        self.send({"clear": self.number})
        # The engine has emptied the pipes when it replies.
        self.receive()

    def show(self, data, metadata=None, display_id=None, update=False):
        if self.task is None or self.is_late():
            return None
        if self.pending_clear:
            self.clear()
        return self.outputs.add(data, metadata, display_id, update)

    def set_result(self, value, data, metadata):
        text = data.get("text/plain")
        if isinstance(text, str) and len(text) > MAX_VALUE:
            self.value_was_cut = True
            data = {**data, "text/plain": text[:MAX_VALUE] + "…"}
            value = None
        bundle = self.show(data, metadata)
        if bundle is None:
            return
        self.result = {"output": len(self.outputs.bundles) - 1}
        # The text of a string is the string, whatever its quotes.
        if isinstance(value, str) and type(value).__repr__ is str.__repr__:
            self.result["string"] = value

    @staticmethod
    def without_own_frames(error):
        """Takes the frames of this directory's files out of an exception's traceback, and of those before."""
        seen = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            frames, frame = [], error.__traceback__
            while frame is not None:
                if os.path.dirname(frame.tb_frame.f_code.co_filename) != DIRECTORY:
                    frames.append(frame)
                frame = frame.tb_next
            for frame, following in zip(frames, [*frames[1:], None]):
                frame.tb_next = following
            error.__traceback__ = frames[0] if frames else None
            error = error.__cause__ or error.__context__

    def receive(self):
        header, streams = b"", []
        while len(header) < 4:
            part, fds, _, _ = socket.recv_fds(self.control, 4 - len(header), 3)
            streams += fds
            if not part:
                return None
            header += part
        (left,) = struct.unpack("<I", header)
        parts = []
        while left:
            part = self.control.recv(min(left, 1 << 20))
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return json.loads(b"".join(parts)), streams

    def send(self, message):
        body = dump(message)
        self.control.sendall(struct.pack("<I", len(body)) + body)


async def ended(future):
    """Waits for its end, even where a cell cancels every task that there is."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            pass


def encode(data):
    """A MIME bundle as JSON: bytes become base64."""
    encoded = {}
    for kind, value in data.items():
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        encoded[str(kind)] = plain_json(value)
    return encoded


def plain_json(value):
    """What JSON has no form for, and what is nested too deeply, becomes text."""
    try:
        if is_deep(value, MAX_DEPTH):
            return "…"
        return json.loads(json.dumps(value, default=repr, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def is_deep(value, limit):
    if not isinstance(value, (dict, list, tuple)):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(is_deep(part, limit - 1) for part in parts)


def dump(message):
    # Half of a surrogate pair has no UTF-8.
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


if __name__ == "__main__":
    kernel = Kernel()
    names = json.loads(os.environ.pop("SESSION_PRELOAD", "[]"))
    # Cells get the name `__main__`, and nothing of this file.
    sys.modules["__main__"] = types.ModuleType("__main__")
    kernel.start(names)
