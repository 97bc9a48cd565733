"""Telling every `dagengine serve` of a store to look: a run was submitted, a signal came, a schedule was changed.

A hint is never needed for anything to happen, only for it to happen at once: what a server acts on is in the store, and
it looks there by itself, if seldom. On this machine servers are told over their control sockets, which have a name that
says what they are; on PostgreSQL those of other machines are told by the database.

May import nothing of ours but errors, control, model and modules of storage.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dagengine.control import NoAnswer, ask, tell
from dagengine.errors import StoreError
from dagengine.model import ProcessRecord
from dagengine.storage.interface import Store

PREFIX = "serve-"
"""What the names of the servers' sockets begin with, before the id of the process."""

HINT_SECONDS = 1.0
"""For a server to take a hint. One that is stopped is not waited for any longer."""


def hint(store: Store, control: Path) -> int:
    """Tell all servers to look; returns how many there are on this machine. `control`: the folder of the sockets."""
    from dagengine.storage import servers

    with contextlib.suppress(StoreError):
        servers.tell(store)
    return hint_here(control)


def hint_here(control: Path) -> int:
    """As `hint`, for those of this machine."""
    return sum(tell(control, name, {"verb": "hint"}, HINT_SECONDS) for name in names(control))


def announce(control: Path, process: ProcessRecord) -> None:
    """Tell the servers of this machine that the process is about to work on runs: they hear of its end at once then."""
    for name in names(control):
        tell(control, name, {"verb": "watch", "process": asdict(process)}, HINT_SECONDS)


def process_of(said: dict[str, Any]) -> ProcessRecord:
    """What `announce` has sent. Raises KeyError, TypeError or ValueError if it is something else."""
    id_, host, boot_id = (str(said[name]) for name in ("id", "host", "boot_id"))
    return ProcessRecord(id_, host, boot_id, int(said["pid"]), float(said["start_time"]), float(said["started_at"]))


def names(control: Path) -> list[str]:
    """The servers of this machine, as names of sockets; also of some that are gone."""
    try:
        found = [entry.name.removesuffix(".sock") for entry in os.scandir(control)]
    except OSError:
        return []
    return sorted(name for name in found if name.startswith(PREFIX))


def ask_server(control: Path, name: str, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """What it answers; None if it does not."""
    try:
        return ask(control, name, request, seconds)
    except (NoAnswer, TimeoutError):
        return None


def wait_at_servers(control: Path, run_id: str, seconds: float) -> None:
    """Until a server of this machine says that the run has ended, or for so long."""
    until = time.monotonic() + seconds
    for name in names(control):
        left = until - time.monotonic()
        if left <= 0:  # the one before did not answer
            return
        asked = ask_server(control, name, {"verb": "wait", "run": run_id, "timeout": left}, left + 1.0)
        if asked is not None and asked.get("ended"):
            return
    time.sleep(max(0.0, until - time.monotonic()))
