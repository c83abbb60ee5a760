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
# Their threads serve every cell, whichever one started them.
SHARED_THREADS = ("asyncio.", "concurrent.futures.", "multiprocessing.")


class CellStream(io.TextIOWrapper):
    """A standard stream that drops what a thread prints after its cell has ended."""

    kernel = None

    def write(self, text):
        thread = threading.current_thread()
        if getattr(thread, "session_cell", None) not in (None, self.kernel.number):
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
        if self.bytes + size > MAX_RICH_BYTES:
            self.left_out += 1
            return None
        if update:
            for i, (shown_id, _) in enumerate(self.bundles):
                if shown_id == display_id:
                    self.bundles[i] = (display_id, bundle)
                    return bundle
        self.bytes += size
        self.bundles.append((display_id, bundle))
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
        self.is_interrupted = False
        self.pending_clear = False
        self.outputs = Outputs()
        self.result = None
        self.expression_is_none = False
        self.shell = None

    def start(self, preload):
        # Programs that share this process's user must not be able to trace it.
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
        # Without it no cell could run; the engine tells that the kernel has ended.
        self.loop.create_task(self.serve()).add_done_callback(lambda _: os._exit(1))
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
        self.expression_is_none = self.is_interrupted = self.pending_clear = False
        self.open_streams()
        signal.signal(signal.SIGINT, self.interrupt)
        self.task = self.loop.create_task(self.shell.run(request["code"]), **self.context())
        try:
            await ended(self.task)
            code = self.task.result()
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("KeyboardInterrupt", file=sys.stderr)
            code = 1
        self.task = None
        code = self.finish(code)
        self.close_streams()
        if os.getpid() != self.pid:
            os._exit(code)
        self.send({"done": {
            "cell": self.number,
            "code": code,
            "value": {
                "result": self.result,
                "none": self.expression_is_none,
                "outputs": [bundle for _, bundle in self.outputs.bundles],
            },
        }})

    def context(self):
        # Variables of the context last as long as others do.
        if sys.version_info < (3, 11):
            return {}
        return {"context": self.shell.context}

    def finish(self, code):
        """Says what was left out, and makes an exit status of a code."""
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        if self.outputs.left_out:
            limit = MAX_RICH_BYTES >> 20
            print(
                f"{self.outputs.left_out} of this cell's outputs were left out: together they are"
                f" larger than {limit} MiB.",
                file=sys.stderr,
            )
        return code & 0xFF

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

    def interrupt(self, *_):
        if self.task is None or self.task.done():
            return
        self.is_interrupted = True
        if asyncio.current_task(self.loop) is self.task:
            raise KeyboardInterrupt
        # The cell awaits something, perhaps in a `select` that this does not end by itself.
        self.loop.call_soon_threadsafe(self.task.cancel)

    def clear(self, wait=False):
        """Takes back what the cell has shown so far."""
        self.pending_clear = wait
        if wait:
            return
        self.outputs.clear()
        for stream in (sys.__stdout__, sys.__stderr__):
            stream.flush()
        self.send({"clear": self.number})
        # The engine has emptied the pipes when it replies.
        self.receive()

    def show(self, data, metadata=None, display_id=None, update=False):
        if self.pending_clear:
            self.clear()
        return self.outputs.add(data, metadata, display_id, update)

    def set_result(self, value, data, metadata):
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
    """What JSON has no form for becomes text."""
    try:
        return json.loads(json.dumps(value, default=repr, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return str(value)


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
