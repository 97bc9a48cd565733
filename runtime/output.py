"""What tasks print: into one nameless file of their worker, and from there into the log of the attempt that printed.

Captured at the level of descriptors, so that it covers C code and child processes. The file has no name, so nothing is
left behind by whoever dies; the controller holds the same file open, and saves what a dead worker had printed. While an
attempt runs, its output can be read through `live_path`.

Imports nothing of ours. Linux only (sendfile between files).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def new_output(folder: str | None) -> int:
    """A descriptor of an empty nameless file to append to, in `folder` (None: the system's temporary one)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = os.dup(file.fileno())
    # Appending: the file is emptied between tasks, and every descriptor of it has its own idea of where it ends.
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    return descriptor


def live_path(pid: int) -> str:
    """Where the output of the attempt that worker process `pid` runs can be read meanwhile."""
    return f"/proc/{pid}/fd/1"


def save_output(descriptor: int, log: str | None) -> None:
    """Move what was printed, if anything, to the file `log` (None: nowhere); its folder is made if need be.

    A log that can't be written is given up: it must not fail the task. Whoever looks for it sees that it is not there.
    """
    size = os.fstat(descriptor).st_size
    if not size:
        return
    if log is not None:
        with contextlib.suppress(OSError):
            _copy(descriptor, size, log)
    os.ftruncate(descriptor, 0)


def _copy(descriptor: int, size: int, log: str) -> None:
    Path(log).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        at = 0
        while at < size:
            sent = os.sendfile(target, descriptor, at, size - at)
            if not sent:
                break
            at += sent
    finally:
        os.close(target)


class Capture:
    """A worker's standard output and error, both in the file `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        import ctypes

        # stdout and stderr of C may be buffered: what extension modules print has to go to the task that did.
        library = ctypes.CDLL(None)
        self._flush_c = library.fflush
        self._flush_c.argtypes = [ctypes.c_void_p]
        self._c_stdout = ctypes.c_void_p.in_dll(library, "stdout")
        self._open()

    def _open(self) -> None:
        os.dup2(self._descriptor, 1)
        os.dup2(self._descriptor, 2)
        # Lines appear as they are printed, and no text that a task prints can fail for its encoding.
        self._stdout = sys.stdout = sys.__stdout__ = _text(1)  # type: ignore[misc]
        self._stderr = sys.stderr = sys.__stderr__ = _text(2)  # type: ignore[misc]

    def finish(self, log: str | None) -> None:
        """The task is over: its output goes to `log`, and the next one finds everything as this one did."""
        intact = sys.stdout is self._stdout and sys.stderr is self._stderr
        for stream in (self._stdout, self._stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                intact = False
        self._flush_c(self._c_stdout)
        save_output(self._descriptor, log)
        if intact:
            # The task may have pointed the descriptors elsewhere, or closed them.
            os.dup2(self._descriptor, 1)
            os.dup2(self._descriptor, 2)
        else:
            self._open()


def _text(descriptor: int) -> Any:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
