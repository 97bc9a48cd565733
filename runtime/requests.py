"""Those who wait for an answer of the scheduler core: readers of objects, who puts, who reserves.

Runs on the runtime's thread; callbacks are called there. May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagengine.model import Failure
from dagengine.runtime.arena import Arena
from dagengine.runtime.core import actions as core
from dagengine.runtime.core.events import (
    Freed,
    GroupAsked,
    Need,
    RoomAsked,
    Stored,
    Unwanted,
    Wanted,
)
from dagengine.runtime.endings import lost_object
from dagengine.runtime.messages import Answer, Ask, Written
from dagengine.runtime.node import NodeAgent
from dagengine.runtime.objects import AWAY, NODE, Lent, Place
from dagengine.runtime.protocol import Asked, Content, GroupId, ObjectId
from dagengine.runtime.rooms import Room
from dagengine.runtime.shared import LentFile, anonymous_file

if TYPE_CHECKING:
    from dagengine.runtime.shell import Shell

Found = Callable[[Content | Failure], None]


@dataclass(frozen=True, slots=True)
class Given:
    """A room for a put, which is written to from the caller's thread. `keep`: to be closed when that is done."""

    room: Room
    writer: Arena
    keep: Lent


class Requests:
    """`actions`: by the type of what the core says, what does it."""

    def __init__(self, shell: Shell, agent: NodeAgent) -> None:
        self._shell = shell
        self._agent = agent
        self._numbers = itertools.count()
        self._readers: dict[int, Callable[[bool], None]] = {}
        self._groups: dict[GroupId, Callable[[Failure | None], None]] = {}
        self._rooms: dict[int, Callable[[Failure], None]] = {}
        self.actions: dict[type, Callable[[Any], None]] = {
            core.Ready: self._ready,
            core.GroupReserved: lambda action: self._reserved(action.group, None),
            core.GroupRefused: lambda action: self._reserved(
                action.group, Failure("infeasible", "dagengine.errors.Infeasible", action.reason, retriable=False)
            ),
        }

    def end(self, failure: Failure) -> None:
        """The runtime is over: whoever still waits is told."""
        readers, self._readers = self._readers, {}
        groups, self._groups = self._groups, {}
        rooms, self._rooms = self._rooms, {}
        for reader in readers.values():
            reader(False)
        for told in groups.values():
            told(failure)
        for refused in rooms.values():
            refused(failure)

    # ---- reading ------------------------------------------------------------------------------

    def _want(self, object_id: ObjectId, ready: Callable[[bool, int], None]) -> None:
        number = next(self._numbers)
        self._readers[number] = lambda ok: ready(ok, number)
        self._shell.happen(Wanted(object_id, NODE, number))

    def _ready(self, action: core.Ready) -> None:
        reader = self._readers.pop(action.reader, None)
        if reader is not None:
            if action.ok:
                self._agent.talk.read([action.object])
            reader(action.ok)

    def lend(self, object_id: ObjectId, told: Found, own: bool = False) -> None:
        """Have the object's bytes for whoever submitted, and tell where; `own`: it is gone when they close it."""
        post = self._agent.mover.post

        def ready(ok: bool, number: int) -> None:
            def done() -> None:
                self._shell.happen(Unwanted(object_id, NODE, number))
                if own:
                    self._shell.happen(Freed([object_id]))

            if not ok:
                told(lost_object(object_id, self._agent.mover.trouble.get(object_id)))
                return
            content = self._agent.objects.content(object_id, lambda: post(done))
            if content is None:
                self._read_spilled(object_id, told, done)
            else:
                told(content)

        self._want(object_id, ready)

    def _read_spilled(self, object_id: ObjectId, told: Found, done: Callable[[], None]) -> None:
        """The arena can't have it, now or ever: copy it out of the spill space."""
        place = self._agent.objects.places.get(object_id)
        if place is None or place.offset != AWAY:
            done()
            told(lost_object(object_id, None))
            return

        def job() -> None:
            found: Content | Failure
            try:
                found = self._copy(object_id, place)
            except Exception as error:
                found = lost_object(object_id, str(error))

            def tell() -> None:
                done()
                told(found)

            self._agent.mover.post(tell)

        self._agent.mover.run(job)

    def _copy(self, object_id: ObjectId, place: Place) -> Content:
        import mmap

        file = LentFile(anonymous_file(place.size), place.size, place.digest)
        with mmap.mmap(file.fileno(), place.size) as mapping, memoryview(mapping) as target:
            self._agent.spill.read_into(object_id, target)
        return Content(place.digest, place.size, shared=file)

    def read_for(self, worker: int, object_id: ObjectId, told: Callable[[Any], None]) -> None:
        """The object as an input for the worker, which holds it from then on; or a Failure."""

        def ready(ok: bool, number: int) -> None:
            process = self._agent.worker(worker)
            if not ok:
                found: Any = lost_object(object_id, self._agent.mover.trouble.get(object_id))
            elif process is None:
                found = Failure("lost", "dagengine.errors.WorkerLost", "the worker that asked is gone")
            else:
                inline = self._agent.objects.inline.get(object_id)
                place = self._agent.objects.places.get(object_id)
                if inline is not None:
                    found = inline[0]
                elif place is not None and place.offset != AWAY:
                    self._agent.talk.hold(process, [object_id])
                    found = (place.offset, place.size, object_id)
                else:
                    self._read_spilled(
                        object_id,
                        lambda content: told(_bytes_of(content)),
                        lambda: self._shell.happen(Unwanted(object_id, NODE, number)),
                    )
                    return
            if ok:
                self._shell.happen(Unwanted(object_id, NODE, number))
            told(found)

        self._want(object_id, ready)

    # ---- putting ------------------------------------------------------------------------------

    def ask_room(self, size: int, answer: Callable[[Given | Failure], None]) -> None:
        def answered(room: Room) -> None:
            del self._rooms[room.number]
            keep = self._agent.objects.loans.lend(Place(room.offset, room.size, ""), lambda: None)
            answer(Given(room, self._agent.arena, keep))

        room = self._agent.rooms.ask(size, None, answered)
        self._rooms[room.number] = answer
        self._shell.happen(RoomAsked(NODE, self._agent.epoch, room.number, room.pages))

    def stored(self, object_id: ObjectId, room: Room, checksum: int) -> None:
        """What was put is in its room."""
        self._agent.rooms.used(room.number)
        agent = self._agent
        if room.path:
            agent.spill.adopt(object_id, room.path, room.size, checksum)
            agent.objects.places[object_id] = Place(AWAY, room.size, "", spilled=True)
        else:
            agent.objects.places[object_id] = Place(room.offset, room.size, "")
        self._shell.counts["objects_put"] += 1
        self._shell.happen(Stored(object_id, NODE, room.pages, False, room.number, bool(room.path)))

    def stored_inline(self, object_id: ObjectId, data: bytes) -> None:
        self._agent.objects.inline[object_id] = data, ""
        self._shell.counts["objects_put"] += 1
        self._shell.happen(Stored(object_id, NODE, len(data), True))

    def adopt(self, worker: int, object_id: ObjectId, written: Written) -> None:
        """A task has put an object."""
        process = self._agent.worker(worker)
        if process is None:
            return  # its rooms were given back, and nobody knows the object
        made = self._agent.results.adopt(process, object_id, written)
        self._shell.counts["objects_put"] += 1
        self._shell.happen(Stored(object_id, NODE, made.size, made.request < 0, made.request, made.overflow))

    # ---- reserving ----------------------------------------------------------------------------

    def reserve(
        self, group: GroupId, bundles: tuple[Need, ...], strategy: str, told: Callable[[Failure | None], None]
    ) -> None:
        self._groups[group] = told
        self._shell.happen(GroupAsked(group, bundles, strategy))

    def _reserved(self, group: GroupId, failure: Failure | None) -> None:
        told = self._groups.pop(group, None)
        if told is not None:
            told(failure)

    # ---- asking -------------------------------------------------------------------------------

    def handed_on(self, worker: int, ask: Ask) -> Asked:
        """A question to whoever submitted the attempt. A large value that comes with it becomes an object."""
        question, written = ask.body
        task = ask.id or ()
        if written is None or isinstance(written, bytes):
            return Asked(task, worker, ask.number, question, written)
        object_id = (*task, worker, ask.number)
        digest, size, request, checksum = written
        self.adopt(worker, object_id, Written(digest, size, None, request, checksum))
        return Asked(task, worker, ask.number, question, None, object_id)

    def refuse(self, worker: int, ask: Ask) -> None:
        failure = Failure(
            "error", "dagengine.errors.RuntimeFault", "tasks of this runtime can't use it themselves", retriable=False
        )
        if ask.number >= 0:
            self._agent.mover.post(lambda: self._agent.talk.answer(worker, Answer(ask.number, None, failure)))


def _bytes_of(content: Content | Failure) -> Any:
    if isinstance(content, Failure):
        return content
    shared = content.shared
    assert shared is not None
    with shared.view() as view:
        data = bytes(view)
    shared.close()
    return data
