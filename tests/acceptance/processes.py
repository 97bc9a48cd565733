"""Processes of a test, found by a variable of their environment, and waited for without polling."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_MS = 300_000  # how long a process that has to end is waited for, before the test fails


def start(module: str, folder: Path, *words: str, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Run `python -m module folder words…` in a process group of its own, with all temporary files in `folder`. `within`: a
    command that runs it."""
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [*within, sys.executable, "-m", module, str(folder), *words],
        env=environment_of(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def environment_of(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(folder / "tmp"),
        "DAGENGINE_HOME": str(folder),
        "DAGENGINE_TEST_LEDGER": str(folder / "ledger"),
    }


def of_folder(folder: Path) -> list[int]:
    """The processes that `start` started for this folder, and all that they started."""
    needle = f"DAGENGINE_TEST_LEDGER={folder / 'ledger'}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def await_end(pids: list[int]) -> list[int]:
    """Wait until these processes are gone; returns those that are not, after the timeout."""
    poll = select.poll()
    descriptors = {}
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        descriptors[descriptor] = pid
        poll.register(descriptor, select.POLLIN)
    try:
        while descriptors:
            ready = poll.poll(TIMEOUT_MS)
            if not ready:
                break
            for descriptor, _ in ready:
                poll.unregister(descriptor)
                os.close(descriptor)
                del descriptors[descriptor]
        return list(descriptors.values())
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
