"""Programs of a test, each a process of its own, forked from one that has imported what they import.

A walk over all places to die at takes hundreds of them, and importing took most of their time. The parent has run nothing
of the program and has one thread; the fork goes on as `python -m MODULE FOLDER WORDS…` would, which `processes.start` is.

    run(…) ─▶ parent ─ fork ─▶ minder ─ fork ─▶ the program, which leads a session
                                └ waits for it, and tells how it ended

There is a parent for each verb, so that a run is resumed in a process whose sets have another order than in the one that
began it.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.acceptance.processes import environment_of

LOADED_LATE = (
    "dagengine.caching",
    "dagengine.code.fingerprints",
    "dagengine.helpers",
    "dagengine.runtime.processes",
    "dagengine.storage.origins",
    "dagengine.storage.outbox",
    "dagengine.storage.postgres",
)
"""What an engine imports when it comes to it."""

TIMEOUT = 600.0
"""Seconds that a program may take."""


class Ended(NamedTuple):
    """`status`: as `subprocess` says it."""

    status: int
    output: str
    errors: str


def run(module: str, folder: Path, *words: str) -> Ended:
    """As `processes.start`, until it ends. The module's `main` takes the folder and the words."""
    (folder / "tmp").mkdir(exist_ok=True)
    said = [os.memfd_create(name) for name in ("output", "errors")]
    ours, theirs = os.pipe()
    try:
        request = {"module": module, "folder": str(folder), "words": words, "environment": environment_of(folder)}
        socket.send_fds(_parent(words[0]), [json.dumps(request).encode()], [*said, theirs])
        os.close(theirs)
        assert select.select([ours], [], [], TIMEOUT)[0], f"{module} {' '.join(words)} does not end"
        status = int(os.read(ours, 10))
        return Ended(status, *(os.pread(each, os.fstat(each).st_size, 0).decode() for each in said))
    finally:
        for each in (*said, ours):
            os.close(each)


@functools.cache
def _parent(verb: str) -> socket.socket:
    """Of the programs with this verb that this test process starts; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.warm"],
            stdin=theirs.fileno(),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def end() -> None:
        ours.close()
        process.terminate()  # a fork of this process may hold our end open
        process.wait()

    atexit.register(end)
    return ours


# ---- the parent -----------------------------------------------------------------------------


def serve(control: socket.socket) -> int:
    """In the parent until nobody asks any more; in each program it returns, too: with its exit status."""
    for module in LOADED_LATE:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for minders
    while True:
        request, given, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not request:
            return 0
        asked = json.loads(request)
        importlib.import_module(asked["module"])
        assert len(list(Path("/proc/self/task").iterdir())) == 1, "it can't be forked safely"
        if os.fork() == 0:
            control.close()
            return _mind(asked, *given)
        for each in given:
            os.close(each)


def _mind(asked: dict[str, Any], output: int, errors: int, told: int) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number, given in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
            os.dup2(given, number)
            os.close(given)
        os.close(told)
        return _become(asked)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(told, str(status).encode())
    os._exit(0)


def _become(asked: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(asked["environment"])
    tempfile.tempdir = None  # as it was before anybody asked for it
    return importlib.import_module(asked["module"]).main(Path(asked["folder"]), *asked["words"]) or 0


if __name__ == "__main__":
    with socket.socket(fileno=os.dup(0)) as control:
        sys.exit(serve(control))
