"""What a worker offers the code that runs in it: the way to its controller (`hosting.Host` and `current.Link` in one).

Large values are written where the controller says, by this process itself: into the arena, or, when there is no room,
into a file of the spill space. What finalisers have noted goes out with whatever is sent next.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from dagengine.errors import ObjectStoreFull, RuntimeStopped
from dagengine.model import INLINE_LIMIT
from dagengine.runtime import current
from dagengine.runtime.channel import Channel, Stream
from dagengine.runtime.frames import Link
from dagengine.runtime.inputs import Inputs
from dagengine.runtime.messages import Answer, Ask, Define, FromWorker, Hold, LetGo, Result, ToWorker, Written, Yield
from dagengine.runtime.protocol import TaskId
from dagengine.runtime.worker_arena import WorkerArena
from dagengine.values import Encoded

_CHUNK: Final = 1 << 20
"""Bytes. What is hashed is still in the cache when it is written."""

_UNANSWERED: Final = -1


class Workplace:
    """`used`: some code has asked, told or noted something, or has views that outlive its task: so the end of an object
    may be something to tell, at any time.

    idle: the main thread waits, or is about to: what is noted has to wake it
    """

    def __init__(self, link: Link[ToWorker], arena: WorkerArena | None, define: Callable[[Define], None]) -> None:
        self.inputs = Inputs(arena, self._noted)
        self.channel = Channel(link, define, self.inputs.unwanted)
        self.used = False
        self.idle = False
        self._arena = arena
        self._notes: deque[tuple[str, Any]] = deque()
        self._pid = os.getpid()

    # ---- hosting.Host -------------------------------------------------------------------------

    def store(self, encoded: Encoded, hashed: bool, task: TaskId | None) -> Written:
        room = self.channel.ask_room(encoded.size, task)
        sha = sha256() if hashed else None
        checksum = 0
        try:
            if room.offset >= 0:
                assert self._arena is not None
                self._arena.write(room.offset, encoded.segments, sha)
            elif room.path:
                checksum = _write_file(room.path, encoded.segments, sha)
            else:
                raise ObjectStoreFull(room.trouble)
        except BaseException as error:
            self.channel.give_back(room)
            if not isinstance(error, OSError):
                raise
            where = room.path or "the memory for objects"
            raise ObjectStoreFull(
                f"a value of {encoded.size:,} bytes can't be written to {where}: {error.strerror}. Make room there."
            ) from None
        return Written(sha.hexdigest() if sha else "", encoded.size, None, room.request, checksum)

    def hand_item(self, item: Yield) -> None:
        self._send([*self._settled(), item])

    def flow(self, task: TaskId, ahead: int) -> Stream:
        return self.channel.flow(task, ahead)

    # ---- current.Link -------------------------------------------------------------------------

    def ask(self, verb: str, body: Any, blocks: bool = False) -> Answer:
        self._check_process()
        self.used = True
        task = current.task.get()
        answer = self.channel.ask(lambda number: Ask(number, verb, body, task, blocks), self._settled())
        self.inputs.handed(answer.holds, task)
        return answer

    def tell(self, verb: str, body: Any) -> None:
        self._check_process()
        self.used = True
        self._send([*self._settled(), Ask(_UNANSWERED, verb, body, current.task.get())])

    def note(self, verb: str, item: Any) -> None:
        self.used = True
        self._notes.append((verb, item))
        self._noted()

    def keep(self, encoded: Encoded) -> Written:
        self._check_process()
        if encoded.size > INLINE_LIMIT:
            return self.store(encoded, False, None)
        return Written("", encoded.size, encoded.to_bytes())

    def open(self, packed: Any) -> Any:
        if isinstance(packed, bytes):
            return self.inputs.open(packed)
        return self.inputs.open(packed, current.task.get())

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeStopped("a process that a task has forked can't use the runtime: let the task itself do that")

    # ---- the worker ---------------------------------------------------------------------------

    def finish(self, result: Result) -> None:
        """Send an attempt's result, and before it what its end has to tell."""
        if not (self.inputs.used or self._notes):
            self.channel.send([result])
            return
        hold, let_go = self.inputs.finish(result.id)
        before: list[FromWorker] = self._noted_asks()
        if hold:
            before.append(Hold(hold))
            self.used = True
        if let_go:
            before.append(LetGo(let_go))
        self.channel.send([*before, result])

    def settle(self) -> None:
        """Tell what was noted."""
        messages = self._settled()
        if messages:
            self.channel.send(messages)

    def _settled(self) -> list[FromWorker]:
        messages = self._noted_asks()
        let_go = self.inputs.settle()
        if let_go:
            messages.append(LetGo(let_go))
        return messages

    def _noted_asks(self) -> list[FromWorker]:
        noted: dict[str, list[Any]] = {}
        while self._notes:
            verb, item = self._notes.popleft()
            noted.setdefault(verb, []).append(item)
        return [Ask(_UNANSWERED, verb, items, None) for verb, items in noted.items()]

    def _noted(self) -> None:
        if self.idle:
            self.channel.wake()

    def _send(self, messages: Sequence[FromWorker]) -> None:
        try:
            self.channel.send(messages)
        except (BrokenPipeError, ConnectionResetError):
            raise RuntimeStopped("the runtime was closed while a task ran") from None


def _write_file(path: str, segments: Sequence[bytes | memoryview], sha: Any) -> int:
    """Write a new file. The CRC-32 of its bytes."""
    checksum = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for segment in segments:
            view = memoryview(segment)
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                checksum = zlib.crc32(chunk, checksum)
                if sha is not None:
                    sha.update(chunk)
                while chunk:
                    chunk = chunk[os.write(descriptor, chunk) :]
    finally:
        os.close(descriptor)
    return checksum
