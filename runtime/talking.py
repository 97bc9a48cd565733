"""What workers say besides results, and what they are answered: rooms, items of streams, views that they hold, questions.

Holds and rooms are a worker's own: with its death they are given back. May import nothing of ours but runtime modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dagengine.runtime import dispatch_model as dispatch
from dagengine.runtime.core import events
from dagengine.runtime.crew import WorkerProcess
from dagengine.runtime.dispatch_model import TaskState
from dagengine.runtime.messages import Answer, Ask, AskRoom, Credit, GiveBack, Hold, LetGo, Stop, ToWorker, Yield
from dagengine.runtime.messages import Room as RoomMessage
from dagengine.runtime.objects import NODE
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.results import spec_of
from dagengine.runtime.rooms import Room

if TYPE_CHECKING:
    from dagengine.runtime.node import NodeAgent


class Talk:
    """`unread`: items of streams that nobody has read, with the stream; `held`: how many views hold each object"""

    def __init__(self, agent: NodeAgent) -> None:
        self.unread: dict[ObjectId, TaskId] = {}
        self._held: dict[ObjectId, int] = {}
        self._agent = agent
        self._said: dict[type, Callable[[WorkerProcess, Any], None]] = {
            AskRoom: self._room_asked,
            GiveBack: self._room_given_back,
            Yield: self._yielded,
            Hold: lambda worker, message: self.hold(worker, message.objects),
            LetGo: lambda worker, message: self.let_go(worker, message.objects),
            Ask: self._ask,
        }

    def said(self, worker: WorkerProcess, message: Any) -> None:
        self._said[type(message)](worker, message)

    def gone(self, worker: WorkerProcess) -> None:
        """The worker has died."""
        self.return_rooms(worker)
        self.let_go(worker, [name for name, count in worker.holds.items() for _ in range(count)])

    # ---- rooms --------------------------------------------------------------------------------

    def _room_asked(self, worker: WorkerProcess, message: AskRoom) -> None:
        def answer(room: Room) -> None:
            self._agent.crew.send(worker, [RoomMessage(message.request, room.offset, room.path, room.trouble)], 0)
            if room.trouble:
                worker.rooms.pop(message.request, None)
                self._agent.rooms.give_back(room)

        room = self._agent.rooms.ask(message.size, message.id, answer)
        worker.rooms[message.request] = room
        task = self._agent.dispatcher.tasks.get(message.id) if message.id is not None else None
        self._agent.tell(
            events.RoomAsked(
                NODE,
                self._agent.epoch,
                room.number,
                room.pages,
                task.id if task is not None else None,
                task.attempt if task is not None else 0,
            )
        )

    def _room_given_back(self, worker: WorkerProcess, message: GiveBack) -> None:
        room = worker.rooms.pop(message.request, None)
        if room is not None:
            self.return_room(room)

    def return_rooms(self, worker: WorkerProcess, task: TaskId | None = None) -> None:
        """Of one task, or all."""
        for request, room in list(worker.rooms.items()):
            if task is None or room.task == task:
                del worker.rooms[request]
                self.return_room(room)

    def return_room(self, room: Room) -> None:
        self._agent.rooms.give_back(room)
        self._agent.tell(events.RoomReturned(NODE, self._agent.epoch, room.number))

    # ---- streams ------------------------------------------------------------------------------

    def _yielded(self, worker: WorkerProcess, message: Yield) -> None:
        task = self._agent.dispatcher.tasks[message.id]
        spec = spec_of(task)
        assert spec.output is not None
        object_id = (*spec.output, message.index)
        made = self._agent.results.adopt(worker, object_id, message.result)
        self.unread[object_id] = message.id
        self._agent.tell(events.Yielded(NODE, self._agent.epoch, message.id, task.attempt, made))
        self._agent.owner.yielded(spec, message.index, object_id, message.result.size)

    def read(self, objects: Sequence[ObjectId]) -> None:
        """Somebody reads these, or nobody will: their streams may go on."""
        if not self.unread:
            return
        counts: dict[TaskId, int] = {}
        for object_id in objects:
            stream = self.unread.pop(object_id, None)
            if stream is not None:
                counts[stream] = counts.get(stream, 0) + 1
        for stream, count in counts.items():
            self._say(stream, Credit(stream, count))

    def stop(self, ids: Sequence[TaskId]) -> None:
        """Nobody wants more of these, if they run."""
        for task_id in ids:
            task = self._agent.dispatcher.tasks.get(task_id)
            if task is not None and task.state is TaskState.RUNNING:
                self._say(task_id, Stop(task_id))

    def _say(self, task_id: TaskId, message: ToWorker) -> None:
        task = self._agent.dispatcher.tasks.get(task_id)
        worker = self._agent.crew.workers.get(task.worker) if task is not None else None
        if worker is not None:
            self._agent.crew.send(worker, [message], 0)

    # ---- holds --------------------------------------------------------------------------------

    def hold(self, worker: WorkerProcess, objects: Sequence[ObjectId]) -> None:
        fresh = []
        for object_id in objects:
            worker.holds[object_id] = worker.holds.get(object_id, 0) + 1
            self._held[object_id] = self._held.get(object_id, 0) + 1
            if self._held[object_id] == 1:
                fresh.append(object_id)
        if fresh:
            self._agent.tell(events.Held(NODE, self._agent.epoch, tuple(fresh)))

    def let_go(self, worker: WorkerProcess, objects: Sequence[ObjectId]) -> None:
        gone = []
        for object_id in objects:
            if worker.holds.get(object_id):
                worker.holds[object_id] -= 1
                if not worker.holds[object_id]:
                    del worker.holds[object_id]
                self._held[object_id] -= 1
                if not self._held[object_id]:
                    del self._held[object_id]
                    gone.append(object_id)
        if gone:
            self._agent.tell(events.LetGo(NODE, self._agent.epoch, tuple(gone)))

    # ---- questions ----------------------------------------------------------------------------

    def _ask(self, worker: WorkerProcess, message: Ask) -> None:
        waits_for = self._agent.owner.asked(worker.number, message)
        task = self._agent.dispatcher.tasks.get(message.id) if message.id is not None else None
        if message.blocks and task is not None:
            worker.waits[message.number] = task.id
            self._agent.tell(events.Blocked(NODE, self._agent.epoch, task.id, task.attempt, tuple(waits_for)))
            self._agent.happen(dispatch.Blocked(worker.number))

    def answer(self, number: int, answer: Answer) -> None:
        """Answer a worker's Ask. One that is gone needs none. What the answer lets it hold, it holds already."""
        worker = self._agent.crew.workers.get(number)
        if worker is None:
            return
        task_id = worker.waits.pop(answer.number, None)
        task = self._agent.dispatcher.tasks.get(task_id) if task_id is not None else None
        if task is not None:
            self._agent.tell(events.Unblocked(NODE, self._agent.epoch, task.id, task.attempt))
            self._agent.happen(dispatch.Unblocked(number))
        self._agent.crew.send(worker, [answer], 0)
