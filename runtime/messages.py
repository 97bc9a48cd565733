"""What controller, forker and workers say to each other. The wire format is in frames.py.

Nothing here is a pickle to be loaded by the controller: users' values are opaque bytes.

    controller ─▶ worker   Define, Run, Revoke; the end of the stream: finish, then exit
    worker ─▶ controller   Hello, then for each Run in order Done or Expanded or Erred; Acknowledge for each Revoke
    controller ─▶ forker   Setup, then Fork, Kill; the end of the stream: kill all, then exit
    forker ─▶ controller   Forked or NotForked for each Fork, Exited for each Forked

Imports nothing of ours but model and runtime.protocol.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dagengine.model import Failure
from dagengine.runtime.protocol import FileInput, InlineInput, TaskId, TaskInput


class Packed(msgspec.Struct, tag=0, array_like=True, gc=False):
    """Owns a descriptor, whose first `size` bytes are a frame's body."""

    size: int


# ---- controller to worker -------------------------------------------------------------------


class Define(msgspec.Struct, tag=1, array_like=True):
    """`path`: the controller's import path when the function was defined, which may have grown since the fork."""

    number: int
    reference: dict[str, Any]
    path: list[str] = []


class Run(msgspec.Struct, tag=2, array_like=True, gc=False):
    """`inputs`: as `pack_input` makes them."""

    id: TaskId
    function: int
    call: bytes
    inputs: list[Any]
    context: dict[str, Any] | None
    log: str | None
    expand: bool


class Revoke(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The last `count` of the tasks that were sent before this are not to be run. Their permits are gone already."""

    count: int


# ---- worker to controller -------------------------------------------------------------------


class Hello(msgspec.Struct, tag=4, array_like=True, gc=False):
    """The worker is up; or it can't be, because of `trouble`."""

    trouble: str | None = None


class Done(msgspec.Struct, tag=5, array_like=True, gc=False):
    """`data` is the result; None: it is in shared memory, and the message owns the descriptor."""

    id: TaskId
    started_at: float
    finished_at: float
    digest: str
    size: int
    data: bytes | None


class Expanded(msgspec.Struct, tag=6, array_like=True):
    id: TaskId
    started_at: float
    finished_at: float
    calls: list[bytes]


class Erred(msgspec.Struct, tag=7, array_like=True):
    id: TaskId
    started_at: float
    finished_at: float
    failure: Failure


class Acknowledge(msgspec.Struct, tag=8, array_like=True, gc=False):
    """A Revoke was carried out."""


# ---- controller to forker -------------------------------------------------------------------


class Fork(msgspec.Struct, tag=9, array_like=True, gc=False):
    """Start worker `worker`. Owns three descriptors: its socket, its permits, its output file."""

    worker: int


class Kill(msgspec.Struct, tag=10, array_like=True, gc=False):
    """Send the signal to the worker's process group, if the worker has not been reaped."""

    worker: int
    signal: int


# ---- forker to controller -------------------------------------------------------------------


class Forked(msgspec.Struct, tag=11, array_like=True, gc=False):
    worker: int
    pid: int


class NotForked(msgspec.Struct, tag=12, array_like=True, gc=False):
    worker: int
    reason: str


class Exited(msgspec.Struct, tag=13, array_like=True, gc=False):
    """`status`: as os.waitpid returns it."""

    worker: int
    status: int


ToWorker = Packed | Define | Run | Revoke
FromWorker = Packed | Hello | Done | Expanded | Erred | Acknowledge
ToForker = Packed | Fork | Kill
FromForker = Packed | Forked | NotForked | Exited
Result = Done | Expanded | Erred


def descriptors_of(message: object) -> int:
    """How many descriptors the message owns."""
    if isinstance(message, Done):
        return int(message.data is None)
    return 3 if isinstance(message, Fork) else 0


def pack_input(given: TaskInput) -> Any:
    """A task's input for the wire: bytes, or (path, size, digest, verify) of a file, or {"items": [...]}."""
    if isinstance(given, InlineInput):
        return given.data
    if isinstance(given, FileInput):
        return (given.path, given.size, given.digest, given.verify)
    return {"items": [pack_input(item) for item in given.items]}
