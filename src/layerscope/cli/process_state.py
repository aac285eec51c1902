"""Prepare the process of a command: its streams, its memory limit, its signals and its warnings."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from typing import Any, TextIO

MIN_ADDRESS_SPACE = 512 << 20  # bytes that NumPy and its libraries need
ONE_THREAD_BELOW = 4 << 30  # bytes; OpenBLAS reserves memory for each of its threads
SHRUNK_FILE = b"layerscope: a file became shorter while it was read; copy or download it again\n"
INTERRUPTED_TWICE = b"\nlayerscope: interrupted\n"

_kept: list[Any] = []  # functions that C code calls must stay alive


def prepare_streams() -> None:
    """Make the three standard streams safe to use.

    A closed one gets a descriptor, so that no file that is opened later takes its place: writing to a closed stdout
    fails as it does in other programs, and messages to a closed stderr are dropped. A pipe whose reader has ended
    (``| head``) takes the rest in silence, and the command ends with its own exit code. Characters that a terminal
    lacks become ``?``. Messages that stderr does not take are dropped: the exit code says what happened.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        former = getattr(sys, name)
        encoding, is_buffered = getattr(former, "encoding", "utf-8"), not os.isatty(number) and number == 1
        raw = io.BufferedWriter(_PipeOutput(number, "w", closefd=False))
        stream = io.TextIOWrapper(raw, encoding, "replace", line_buffering=not is_buffered)
        setattr(sys, name, stream)


class _PipeOutput(io.FileIO):
    """A descriptor that becomes the null device when its reader has ended, or when stderr cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and self.fileno() == 1:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def memory_problem() -> str:
    """Return what is wrong with the limit of the address space, or an empty text.

    Under a small limit, OpenBLAS ends the process without an exception, with exit code 1.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    if limit < ONE_THREAD_BELOW:
        for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(variable, "1")
    if limit >= MIN_ADDRESS_SPACE:
        return ""
    return (
        f"this process may use {limit >> 20} MiB of memory (ulimit -v), and needs at least {MIN_ADDRESS_SPACE >> 20} "
        "MiB; raise the limit"
    )


def end_on_shrunk_file() -> None:
    """End with one line and exit code 3 if a memory-mapped file became shorter: the system then sends SIGBUS."""
    if not hasattr(signal, "SIGBUS"):
        return
    import ctypes

    def end(_: int) -> None:
        with contextlib.suppress(OSError):
            os.write(2, SHRUNK_FILE)
        os._exit(3)

    with contextlib.suppress(OSError, AttributeError):  # an unusual C library
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
        install = ctypes.CDLL(None).signal
        install.argtypes, install.restype = [ctypes.c_int, type(handler)], ctypes.c_void_p
        _kept.append(handler)
        install(signal.SIGBUS, handler)


def end_at_second_interrupt() -> None:
    """Let a second Ctrl-C end the process at once, even if user code catches the first one."""

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt

    def end(number: int, frame: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(2, INTERRUPTED_TWICE)
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores the signal
        signal.signal(signal.SIGINT, interrupt)


def show_own_warnings_only() -> None:
    """Print warnings of layerscope as one line each, and no warnings of libraries."""
    from layerscope.errors import LayerscopeWarning
    from layerscope.text import printable

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, LayerscopeWarning):
            sys.stderr.write(f"layerscope: {printable(str(message), 500)}\n")

    warnings.showwarning = show
