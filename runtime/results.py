"""What workers have made, until the scheduler core says that the attempt has ended.

What a task keeps as its `output`, or yields, becomes an object under that name. A large result that is to be handed over
becomes an object with a private name; one that was written to the spill space, for lack of room, a file without one.

May import nothing of ours but runtime modules.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagengine.runtime.core import events
from dagengine.runtime.core.events import Made
from dagengine.runtime.crew import WorkerProcess
from dagengine.runtime.dispatch_model import Task
from dagengine.runtime.messages import Done, Erred, Result, Written
from dagengine.runtime.objects import AWAY, Objects, Place
from dagengine.runtime.protocol import ObjectId, TaskId, TaskSpec
from dagengine.runtime.rooms import Rooms
from dagengine.runtime.shared import LentFile
from dagengine.runtime.spilling import SpillSpace


@dataclass(slots=True)
class Ready:
    """A result that its worker has sent. `value`, `state`: where the value is, and an actor's state, if they did not come
    with it."""

    worker: int
    result: Result
    value: ObjectId | LentFile | None = None
    state: ObjectId | LentFile | None = None


class Results:
    """`ready`: by attempt."""

    def __init__(self, objects: Objects, rooms: Rooms, spill: SpillSpace) -> None:
        self.ready: dict[TaskId, Ready] = {}
        self._objects = objects
        self._rooms = rooms
        self._spill = spill

    def take(self, worker: WorkerProcess, task: Task, result: Result) -> events.Done:
        """What the core is to be told of the result."""
        ready = self.ready[result.id] = Ready(worker.number, result)
        seconds = result.finished_at - result.started_at
        if seconds < 0:
            seconds = 0.0  # the wall clock was set back
        if not isinstance(result, Done):
            return events.Done(result.id, task.attempt, seconds, (), isinstance(result, Erred))
        made: tuple[Made, ...] = ()
        spec = spec_of(task)
        if result.result.data is None or spec.output is not None or result.state is not None:
            made = self._keep(worker, spec, result, ready)
        return events.Done(result.id, task.attempt, seconds, made, False, result.peak)

    def _keep(self, worker: WorkerProcess, spec: TaskSpec, result: Done, ready: Ready) -> tuple[Made, ...]:
        """Put what the attempt has made where it belongs."""
        made: list[Made] = []
        if spec.output is not None and spec.mode != "stream":
            made.append(self.adopt(worker, spec.output, result.result))
        elif result.result.data is None:
            ready.value = self._keep_private(worker, result.result, made)
        if result.state is not None and result.state.data is None:
            ready.state = self._keep_private(worker, result.state, made)
        return tuple(made)

    def _keep_private(self, worker: WorkerProcess, written: Written, made: list[Made]) -> ObjectId | LentFile:
        room = worker.rooms[written.request]
        if room.path:
            # Nobody but the one whom it is handed to will ask for it: the file needs no name.
            del worker.rooms[written.request]
            file = LentFile.open(room.path, written.size, written.digest)
            self._rooms.give_back(room)
            return file
        object_id = self._objects.private()
        made.append(self.adopt(worker, object_id, written))
        return object_id

    def adopt(self, worker: WorkerProcess, object_id: ObjectId, written: Written) -> Made:
        """What the worker has written is the object. What was there before under its name is the same, and stays."""
        if written.data is not None:
            self._objects.inline[object_id] = written.data, written.digest
            return Made(object_id, written.size)
        room = self._rooms.used(worker.rooms.pop(written.request).number)
        known = object_id in self._objects.places
        if room.path:
            if not known:
                self._spill.adopt(object_id, room.path, written.size, written.checksum)
                self._objects.places[object_id] = Place(AWAY, written.size, written.digest, spilled=True)
            else:
                self._spill.discard(room.path)
            return Made(object_id, room.pages, room.number, True)
        place = self._objects.places.get(object_id)
        if place is not None and place.offset >= 0:
            self._rooms.release(room.offset)
        elif place is not None:
            place.offset = room.offset
        else:
            self._objects.places[object_id] = Place(room.offset, written.size, written.digest)
        return Made(object_id, room.pages, room.number)

    def forget(self, task_id: TaskId) -> None:
        """Nobody is told of the attempt's result."""
        ready = self.ready.pop(task_id, None)
        if ready is not None:
            for large in (ready.value, ready.state):
                if isinstance(large, LentFile):
                    large.close()

    def close(self) -> None:
        for task_id in list(self.ready):
            self.forget(task_id)


def spec_of(task: Task) -> TaskSpec:
    spec = task.spec
    assert isinstance(spec, TaskSpec)
    return spec
