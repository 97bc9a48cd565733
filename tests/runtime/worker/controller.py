"""A small controller for one worker under test: it forks it through a real forker, and plays the other end of its socket."""

from __future__ import annotations

import itertools
import mmap
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dagengine.functions import Reference
from dagengine.runtime.forker import start_forker
from dagengine.runtime.frames import Link
from dagengine.runtime.messages import (
    AskRoom,
    Define,
    Done,
    Erred,
    Exited,
    Fork,
    Forked,
    FromForker,
    FromWorker,
    GiveBack,
    Hello,
    Kill,
    Room,
    Run,
    Written,
)
from dagengine.runtime.output import new_output
from dagengine.runtime.permits import Permits
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.values import Placeholder, decode, encode

TASKS = Path(__file__).with_name("tasks.py")
WAIT = 300.0
"""Seconds. Bounds what would otherwise hang; nothing is measured by it."""

ARENA = 64 << 20

M = TypeVar("M")


class Input(Placeholder):
    """Stands in a call for its next input."""


class Parent:
    """A forker, and the arena that its workers inherit; offsets are given out one after the other, and never reused."""

    def __init__(self) -> None:
        self.arena = os.memfd_create("arena", os.MFD_CLOEXEC)
        os.ftruncate(self.arena, ARENA)
        self.bytes = mmap.mmap(self.arena, ARENA)
        self.end = 0
        self._numbers = itertools.count()
        self._process, sock = start_forker((self.arena, ARENA))
        sock.settimeout(WAIT)
        self._control: Link[FromForker] = Link(sock, FromForker)
        self._exits: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        offset = self.end
        self.end += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        assert self.end <= ARENA, "the tests need a larger arena"
        return offset

    def fork(self, descriptors: list[int]) -> tuple[int, int]:
        """The number and process id of a new worker."""
        number = next(self._numbers)
        self._control.send([Fork(number)], descriptors)
        while True:
            for message in self._control.receive() or []:
                if isinstance(message, Exited):
                    self._exits[message.worker] = message.status
                else:
                    assert isinstance(message, Forked), message
                    return number, message.pid

    def signal(self, worker: int, number: int) -> None:
        self._control.send([Kill(worker, number)])

    def status(self, worker: int) -> int:
        """The wait status of a worker, once it has ended."""
        while worker not in self._exits:
            for message in self._control.receive() or []:
                assert isinstance(message, Exited), message
                self._exits[message.worker] = message.status
        return self._exits.pop(worker)

    def close(self) -> None:
        self._control.close()
        assert self._process.wait(WAIT) == 0
        self.bytes.close()
        os.close(self.arena)


class Controller:
    """Of one worker. `seen`: all that it has sent. Rooms are given as `give_room` says."""

    def __init__(self, parent: Parent, folder: Path) -> None:
        self.parent = parent
        self.seen: list[FromWorker] = []
        self.give_room: Callable[[AskRoom], Room | None] = self.arena_room
        self.rooms: dict[int, Room] = {}
        self._new: deque[FromWorker] = deque()
        self._folder = folder
        self._numbers = itertools.count()
        self._functions: dict[str, int] = {}
        self._status: int | None = None
        self.permits = Permits()
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT)
        self.link: Link[FromWorker] = Link(ours, FromWorker)
        self.output = new_output(str(folder))
        with theirs:
            given = [os.dup(own) for own in (theirs.fileno(), self.permits.descriptor, self.output)]
        self.worker, self.pid = parent.fork(given)
        hello = self.next(Hello)
        assert hello.trouble is None, hello.trouble

    # ---- out ----------------------------------------------------------------------------------

    def make_run(self, name: str, *args: Any, kwargs: dict[str, Any] | None = None, **fields: Any) -> Run:
        """A Run of the function (of an actor's calls: class) `name`. `fields`: of Run."""
        number = self._functions.get(name)
        if number is None:
            number = self._functions[name] = len(self._functions)
            self.link.send([Define(number, Reference("tasks", name, str(TASKS)).to_json())])
        call = encode((args, kwargs or {})).to_bytes()
        given: dict[str, Any] = {"inputs": [], "context": None, "log": None, "devices": [], **fields}
        return Run((1, next(self._numbers)), number, call, **given)

    def send(self, *runs: Run) -> None:
        self.permits.post(len(runs))
        self.link.send(runs)

    def start(self, name: str, *args: Any, **fields: Any) -> TaskId:
        run = self.make_run(name, *args, **fields)
        self.send(run)
        return run.id

    def arena_room(self, asked: AskRoom) -> Room:
        return Room(asked.request, self.parent.allocate(asked.size))

    def file_room(self, asked: AskRoom) -> Room:
        return Room(asked.request, -1, str(self._folder / f"overflow-{asked.request}"))

    def refuse_room(self, asked: AskRoom) -> Room:
        return Room(asked.request, -1, "", "the disk is full (here): make room there.")

    def put(self, number: ObjectId, value: Any) -> tuple[int, int, ObjectId]:
        """An object in the arena, as a packed input."""
        data = encode(value).to_bytes()
        offset = self.parent.allocate(len(data))
        self.parent.bytes[offset : offset + len(data)] = data
        return offset, len(data), number

    # ---- in -----------------------------------------------------------------------------------

    def message(self) -> FromWorker:
        """The next one. Rooms are given on the way."""
        while not self._new:
            messages = self.link.receive()
            assert messages is not None, "the worker has ended"
            self._new += messages
        message = self._new.popleft()
        self.seen.append(message)
        if isinstance(message, AskRoom):
            room = self.give_room(message)
            if room is not None:
                self.rooms[message.request] = room
                self.link.send([room])
        return message

    def next(self, kind: type[M]) -> M:
        """The next message that is not about room, which must be a `kind`."""
        while isinstance(message := self.message(), (AskRoom, GiveBack)):
            pass
        assert isinstance(message, kind), message
        return message

    def until(self, kind: type[M], task: TaskId | None = None) -> M:
        """The next `kind` (of this task), whatever comes before."""
        while True:
            message = self.message()
            if isinstance(message, kind) and (task is None or getattr(message, "id", None) == task):
                return message

    def value(self, written: Written) -> Any:
        """What was written, wherever; its digest and checksum are held against it."""
        if written.data is not None:
            data = written.data
        else:
            room = self.rooms[written.request]
            if room.offset >= 0:
                data = self.parent.bytes[room.offset : room.offset + written.size]
            else:
                import zlib

                data = Path(room.path).read_bytes()
                assert zlib.crc32(data) == written.checksum
        assert len(data) == written.size
        return decode(data, digest=written.digest or None)

    def result(self, task: TaskId) -> Any:
        while True:
            message = self.message()
            if isinstance(message, Done) and message.id == task:
                return self.value(message.result)
            assert not (isinstance(message, Erred) and message.id == task), message

    def call(self, name: str, *args: Any, **fields: Any) -> Any:
        return self.result(self.start(name, *args, **fields))

    def fails(self, name: str, *args: Any, **fields: Any) -> Erred:
        return self.until(Erred, self.start(name, *args, **fields))

    # ---- the end ------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        self.parent.signal(self.worker, number)

    def status(self) -> int:
        """The worker's wait status, once it has ended."""
        if self._status is None:
            self._status = self.parent.status(self.worker)
        return self._status

    def finish(self) -> list[FromWorker]:
        """Nothing more will be sent: what comes until the worker has ended."""
        self.link.socket.shutdown(socket.SHUT_WR)
        rest = list(self._new)
        self._new.clear()
        while (messages := self.link.receive()) is not None:
            rest += messages
        return rest

    def close(self) -> None:
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.status()
        self.link.close()
        self.permits.close()
        os.close(self.output)


def readable(descriptor: int) -> bool:
    """Whether there is something to read, within the time that bounds a hang."""
    return bool(select.select([descriptor], [], [], WAIT)[0])
