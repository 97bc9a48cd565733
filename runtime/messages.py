"""What controller, forker and workers say to each other. The wire format is in frames.py.

Nothing here is a pickle to be loaded by the controller: users' values are opaque bytes.

    controller ─▶ worker   Define, Run, Revoke; Room for each AskRoom; Credit; Stop; Answer for each Ask;
                           the end of the stream: finish, then exit
    worker ─▶ controller   Hello, then for each Run Done or Expanded or Erred, in order but for concurrent calls on an
                           actor; Acknowledge for each Revoke; AskRoom, Yield, Hold, LetGo, Ask
    controller ─▶ forker   Setup, then Fork, Kill; the end of the stream: kill all, then exit
    forker ─▶ controller   Forked or NotForked for each Fork, Exited for each Forked

Imports nothing of ours but model and runtime.protocol.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dagengine.model import Failure
from dagengine.runtime.protocol import FileInput, InlineInput, ListInput, ObjectId, TaskId, TaskInput


class Packed(msgspec.Struct, tag=0, array_like=True, gc=False):
    """Owns a descriptor, whose first `size` bytes are a frame's body."""

    size: int


# ---- controller to worker -------------------------------------------------------------------


class Define(msgspec.Struct, tag=1, array_like=True):
    """`path`: the controller's import path when the function was defined, which may have grown since the fork.

    code: the group of packs that the function's is one of; pack: the path of its file, or ""
    """

    number: int
    reference: dict[str, Any]
    path: list[str] = []
    code: str = ""
    pack: str = ""


class Run(msgspec.Struct, tag=2, array_like=True, gc=False):
    """`inputs`: as `pack_input` makes them. The other fields are TaskSpec's and ActorWork's.

    devices: GPUs that the attempt may see; None: leave the environment as it is set (an actor's calls)
    replay: of "create": [method, call, inputs] each
    cpus: whole ones that the attempt was given; above 1, libraries that it loads may use as many threads
    """

    id: TaskId
    function: int
    call: bytes
    inputs: list[Any]
    context: dict[str, Any] | None
    log: str | None
    mode: str = "call"
    output: ObjectId | None = None
    hashed: bool = True
    devices: list[int] | None = None
    ahead: int = 16
    method: str = ""
    concurrent: bool = False
    threads: int = 1
    save_state: bool = False
    state: Any = None
    replay: list[Any] = []
    cpus: int = 1


class Revoke(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The last `count` of the tasks that were sent before this are not to be run. Their permits are gone already."""

    count: int


class Room(msgspec.Struct, tag=14, array_like=True, gc=False):
    """Answers AskRoom: write to the arena at `offset`; or, if that is -1, to the new file `path`; or, if that is "",
    nowhere: the attempt fails with ObjectStoreFull, saying `trouble`.

    Room that no Written has named by the end of the attempt was not used.
    """

    request: int
    offset: int
    path: str = ""
    trouble: str = ""


class Credit(msgspec.Struct, tag=15, array_like=True, gc=False):
    """`count` objects of the "stream" task have been read or freed: it may make as many more."""

    id: TaskId
    count: int


class Stop(msgspec.Struct, tag=22, array_like=True, gc=False):
    """Nobody wants more of the attempt. A "stream" closes its generator and ends with the number of its items so far; a
    concurrent call of an async method is cancelled; others go on."""

    id: TaskId


class Answer(msgspec.Struct, tag=16, array_like=True, gc=False):
    """Answers an Ask. `failure` instead of `body`, if it could not be done.

    `holds`: objects of the arena whose places `body` says. They are held by the worker from then on, as by a Hold."""

    number: int
    body: Any = None
    failure: Failure | None = None
    holds: list[ObjectId] = []


# ---- worker to controller -------------------------------------------------------------------


class Written(msgspec.Struct, array_like=True, gc=False):
    """An encoded value on its way to the controller: as `data`; or, if that is None, written where Room `request`
    said. `checksum`: CRC-32 of the bytes if they were written to a file."""

    digest: str
    size: int
    data: bytes | None = None
    request: int = -1
    checksum: int = 0


class Hello(msgspec.Struct, tag=4, array_like=True, gc=False):
    """The worker is up; or it can't be, because of `trouble`."""

    trouble: str | None = None


class Done(msgspec.Struct, tag=5, array_like=True, gc=False):
    """`peak`: bytes of the process's memory at the most, as far as it knows."""

    id: TaskId
    started_at: float
    finished_at: float
    result: Written
    state: Written | None = None
    peak: int = 0


class Expanded(msgspec.Struct, tag=6, array_like=True):
    """`grown`: instead of `calls`, what a "call" returned of calls to be made after it (runtime/growth.py)."""

    id: TaskId
    started_at: float
    finished_at: float
    calls: list[bytes]
    grown: bytes | None = None


class Erred(msgspec.Struct, tag=7, array_like=True):
    id: TaskId
    started_at: float
    finished_at: float
    failure: Failure


class Acknowledge(msgspec.Struct, tag=8, array_like=True, gc=False):
    """A Revoke was carried out."""


class AskRoom(msgspec.Struct, tag=17, array_like=True, gc=False):
    """Where may `size` bytes be written? `request`: a number of the worker's own. `id`: the attempt that makes them."""

    request: int
    size: int
    id: TaskId | None


class GiveBack(msgspec.Struct, tag=23, array_like=True, gc=False):
    """Nothing was written to the room of that AskRoom, and nothing will be."""

    request: int


class Yield(msgspec.Struct, tag=18, array_like=True, gc=False):
    """A "stream" task has made object `index`."""

    id: TaskId
    index: int
    result: Written


class Hold(msgspec.Struct, tag=19, array_like=True, gc=False):
    """Views on these objects outlive the task that read them. Sent before that task's result. Holds are counted."""

    objects: list[ObjectId]


class LetGo(msgspec.Struct, tag=20, array_like=True, gc=False):
    """The last view on each of these held objects is gone. An object is named once for each hold of it."""

    objects: list[ObjectId]


class Ask(msgspec.Struct, tag=21, array_like=True):
    """A task uses the runtime itself: `verb` and `body` are between runtime/client.py here and runtime/serving.py there.

    `id`: the attempt that asks. `blocks`: it waits for the answer, and needs no cpu until then."""

    number: int
    verb: str
    body: Any
    id: TaskId | None
    blocks: bool = False


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


ToWorker = Packed | Define | Run | Revoke | Room | Credit | Stop | Answer
FromWorker = Packed | Hello | Done | Expanded | Erred | Acknowledge | AskRoom | GiveBack | Yield | Hold | LetGo | Ask
ToForker = Packed | Fork | Kill
FromForker = Packed | Forked | NotForked | Exited
Result = Done | Expanded | Erred


def descriptors_of(message: object) -> int:
    """How many descriptors the message owns."""
    return 3 if isinstance(message, Fork) else 0


def pack_input(given: TaskInput) -> Any:
    """A task's input for the wire: bytes, or (path, size, digest, verify) of a file, or {"items": [...]}.

    The controller's side packs an object that lies in the arena as (offset, size, object id); a small one as its bytes.
    """
    if isinstance(given, InlineInput):
        return given.data
    if isinstance(given, FileInput):
        return (given.path, given.size, given.digest, given.verify)
    assert isinstance(given, ListInput)
    return {"items": [pack_input(item) for item in given.items]}
