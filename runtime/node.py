"""The node agent of this machine: carries out what the scheduler core wants of a node, and tells it what happens there.

    core ─ Run, Kill, Grant, Spill, … ─▶ agent ─▶ dispatcher ─▶ crew ─▶ workers
                                            ├──▶ rooms, objects: the arena ◀── they read and write by themselves
                                            └──▶ mover ─▶ spill space
    core ◀─ Finished, RoomAsked, … ──────── agent ◀── results, questions, deaths

It lives on the controller's runtime thread and decides nothing that the core or the dispatcher decide. Results are kept
in `results` until the core says that their tasks have ended, and who died of what in `deaths`.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dagengine.errors import InternalError
from dagengine.model import Failure
from dagengine.runtime import dispatch_model as dispatch
from dagengine.runtime.arena import Arena
from dagengine.runtime.core import actions as core
from dagengine.runtime.core import events
from dagengine.runtime.core.events import Event, Made, NodeId
from dagengine.runtime.crew import Crew, WorkerProcess
from dagengine.runtime.deaths import lost_failure
from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_model import TaskState
from dagengine.runtime.events import run_message
from dagengine.runtime.messages import (
    Answer,
    Ask,
    AskRoom,
    Credit,
    Define,
    Done,
    Erred,
    Hold,
    LetGo,
    Result,
    Stop,
    ToWorker,
    Written,
    Yield,
)
from dagengine.runtime.messages import Room as RoomMessage
from dagengine.runtime.moving import Mover, Post
from dagengine.runtime.objects import LentFile, Objects, Place, objects_of
from dagengine.runtime.output import save_output
from dagengine.runtime.pressure import Watch
from dagengine.runtime.protocol import ActorId, ObjectId, TaskId, TaskSpec
from dagengine.runtime.rooms import Room, Rooms
from dagengine.runtime.spilling import SpillSpace

NODE: NodeId = 0
"""This one, among those that the core knows."""


@dataclass(slots=True)
class Ready:
    """A result that its worker has sent. `large`: private objects that hold the value and an actor's state; or files."""

    worker: int
    result: Result
    value: ObjectId | LentFile | None = None
    state: ObjectId | LentFile | None = None


@dataclass(slots=True)
class Death:
    """What ended an attempt that did not come to its end. Times: wall clock."""

    worker: int
    started_at: float
    finished_at: float
    failure: Failure


class Owner(Protocol):
    """Whose node this is."""

    def happen(self, event: Event) -> None:
        """Give the core an event, and carry out what follows, now or after what is being carried out."""

    def begun(self, task: dispatch.Task, worker: WorkerProcess) -> None: ...

    def yielded(self, spec: TaskSpec, index: int, object_id: ObjectId, size: int) -> None: ...

    def asked(self, worker: int, ask: Ask) -> Sequence[ObjectId]:
        """A task uses the runtime. Returns the objects that it waits for, as far as that can be said."""

    def worker_gone(self, worker: int) -> None: ...

    def give_up(self, trouble: str) -> None:
        """No worker can be started."""

    def all_gone(self) -> None:
        """Closing is complete."""

    def forker_gone(self) -> None: ...


class NodeAgent:
    """`actions`: by the type of what the core wants, what does it."""

    def __init__(
        self,
        owner: Owner,
        crew: Callable[[NodeAgent, tuple[int, int]], Crew],
        *,
        slots: int,
        arena: Arena,
        spill: SpillSpace,
        watch: Watch,
        definitions: dict[int, Define],
        post: Post,
    ) -> None:
        self.results: dict[TaskId, Ready] = {}
        self.deaths: dict[TaskId, Death] = {}
        self.actor_deaths: dict[ActorId, Failure] = {}
        self.timer: float | None = None
        self.watch_at: float | None = None
        self.arena = arena
        self.spill = spill
        self.objects = Objects(arena)
        self.rooms = Rooms(arena, spill)
        self.mover = Mover(
            arena=arena,
            spill=spill,
            objects=self.objects,
            rooms=self.rooms,
            node=NODE,
            post=post,
            tell=owner.happen,
        )
        self.epoch = 0
        self._owner = owner
        self._watch = watch
        self._definitions = definitions
        self._pending: list[dispatch.Event] = []
        self._dispatcher = Dispatcher(slots)
        self._high = False
        self._dying: WorkerProcess | None = None
        self._held: dict[ObjectId, int] = {}
        self._unread: dict[ObjectId, TaskId] = {}  # items of streams that nobody has read
        self._done: list[events.Done] = []
        self._crew = crew(self, (arena.descriptor, arena.size))
        self.actions: dict[type, Callable[[Any], None]] = {
            core.Run: self._run,
            core.Revoke: self._revoke,
            core.Kill: self._kill,
            core.EndActor: self._end_actor,
            core.Grant: lambda action: self.rooms.granted(action.request),
            core.Overflow: lambda action: self.rooms.overflow(action.request, action.refused),
            core.Spill: lambda action: self.mover.spill(action.objects),
            core.Restore: lambda action: self.mover.restore(action.object),
            core.Drop: self._drop,
            core.Welcome: self._welcome,
        }
        self._carry_out: dict[type, Callable[[Any], None]] = {
            dispatch.StartWorker: lambda action: self._crew.start_worker(action.worker),
            dispatch.Send: self._send,
            dispatch.Revoke: self._take_back,
            dispatch.Signal: self._signal,
            dispatch.Retire: self._retire,
            dispatch.SetTimer: self._set_timer,
            dispatch.Begun: self._begun,
            dispatch.Ended: self._ended,
            dispatch.ActorDown: self._actor_down,
            dispatch.GiveUp: lambda _: owner.give_up(self._crew.trouble),
            dispatch.AllGone: lambda _: owner.all_gone(),
        }
        self._said: dict[type, Callable[[WorkerProcess, Any], None]] = {
            AskRoom: self._room_asked,
            Yield: self._yielded,
            Hold: self._hold,
            LetGo: self._let_go,
            Ask: self._ask,
        }

    # ---- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._perform(self._dispatcher.start())

    def close(self, force: bool) -> None:
        """Let the workers go when they have done what they run, or with `force` kill them."""
        self._happen(dispatch.Closing(force))

    def end(self) -> int:
        """Whatever is left is killed, and everything given back. The forker's exit code."""
        try:
            status = self._crew.close()
        finally:
            self.mover.close()
            for ready in self.results.values():
                self._discard(ready)
            self.spill.close()
            self.objects.loans.end()
        return status

    def tick(self, now: float) -> None:
        if self.timer is not None and now >= self.timer:
            self.timer = None
            self._happen(dispatch.Tick())
        if self.watch_at is not None and now >= self.watch_at:
            self._look_at_memory(now)

    # ---- the dispatcher -----------------------------------------------------------------------

    def _happen(self, event: dispatch.Event) -> None:
        """Apply the event and carry out what follows. What that makes happen comes after it, in order."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending:
            self._perform(self._dispatcher.apply(self._pending[0], time.monotonic()))
            self._pending.pop(0)
        if self._done:
            self._tell_done()

    def _perform(self, actions: list[dispatch.Action]) -> None:
        for action in actions:
            self._carry_out[type(action)](action)

    def _tell_done(self) -> None:
        done, self._done = self._done, []
        self._owner.happen(events.Finished(NODE, self.epoch, done))

    def _send(self, action: dispatch.Send) -> None:
        worker = self._crew.workers[action.worker]
        messages: list[ToWorker] = []
        pack = self.objects.pack
        for task in action.tasks:
            if task.function not in worker.defined:
                worker.defined.add(task.function)
                messages.append(self._definitions[task.function])
            spec = spec_of(task)
            if self._unread:
                self._read(objects_of(spec.inputs))
            messages.append(run_message(spec, pack, None if task.calls else task.devices))
        self._crew.send(worker, messages, len(action.tasks))

    def _take_back(self, action: dispatch.Revoke) -> None:
        worker = self._crew.workers.get(action.worker)
        count = self._crew.revoke(worker, action.count) if worker is not None else 0
        self._happen(dispatch.Revoked(action.worker, count))

    def _signal(self, action: dispatch.Signal) -> None:
        worker = self._crew.workers.get(action.worker)
        if worker is not None:
            self._crew.signal(worker, action.hard)

    def _retire(self, action: dispatch.Retire) -> None:
        self._crew.retire(self._crew.workers[action.worker])

    def _set_timer(self, action: dispatch.SetTimer) -> None:
        self.timer = action.at

    def _begun(self, action: dispatch.Begun) -> None:
        if self.watch_at is None:
            self.watch_at = time.monotonic() + self._watch.pause()
        self._owner.begun(action.task, self._crew.workers[action.task.worker])

    def _ended(self, action: dispatch.Ended) -> None:
        task = action.task
        state = task.state
        if state is TaskState.FINISHED:
            return  # told with all that came with it
        spec = spec_of(task)
        worker = self._dying
        if worker is not None and action.started:
            save_output(worker.output, spec.log)
            # The dispatcher's clock does not stop and does not jump; people read the wall's.
            finished_at = time.time()
            started_at = finished_at - (time.monotonic() - task.began)
            assert worker.status is not None
            failure = lost_failure(worker.status, worker.out_of_memory)
            self.deaths[task.id] = Death(task.worker, started_at, finished_at, failure)
        if self._done:
            self._tell_done()
        if state is TaskState.TIMED_OUT:
            event: Event = events.AttemptTimedOut(NODE, self.epoch, task.id, task.attempt)
        elif action.started:
            event = events.AttemptLost(NODE, self.epoch, task.id, task.attempt, state is TaskState.DROPPED)
        else:
            event = events.AttemptReturned(NODE, self.epoch, task.id, task.attempt)
        self._owner.happen(event)

    def _actor_down(self, action: dispatch.ActorDown) -> None:
        worker, made = self._dying, action.made
        assert worker is not None
        assert worker.status is not None
        assert made.actor is not None
        self.actor_deaths[made.actor] = lost_failure(worker.status, worker.out_of_memory)
        self._owner.happen(events.AttemptLost(NODE, self.epoch, made.id, made.attempt, action.ours))

    # ---- what the core wants ------------------------------------------------------------------

    def _welcome(self, action: core.Welcome) -> None:
        self.epoch = self.mover.epoch = action.epoch

    def _run(self, action: core.Run) -> None:
        tasks = []
        for lease in action.leases:
            request = lease.request
            if request.plain:
                task = dispatch.Task(request.id, request.function, True, lease.attempt, spec=request.spec)
                task.grace = request.spec.grace  # type: ignore[attr-defined]
                tasks.append(task)
            else:
                tasks.append(_special(lease))
        self._happen(dispatch.Leased(tasks))

    def _revoke(self, action: core.Revoke) -> None:
        self._happen(dispatch.Cancelled(self._current(action.attempts), False))

    def _kill(self, action: core.Kill) -> None:
        self._happen(dispatch.Cancelled(self._current([(action.id, action.attempt)]), True))

    def _current(self, attempts: Sequence[tuple[TaskId, int]]) -> list[TaskId]:
        tasks = self._dispatcher.tasks
        return [task_id for task_id, attempt in attempts if (task := tasks.get(task_id)) and task.attempt == attempt]

    def _end_actor(self, action: core.EndActor) -> None:
        self._happen(dispatch.ActorReleased(action.actor, action.force))

    def _drop(self, action: core.Drop) -> None:
        if self._unread:
            self._read(action.objects)
        self.mover.drop(action.objects, action.spilled)

    # ---- what workers say ---------------------------------------------------------------------

    def worker_up(self, worker: WorkerProcess) -> None:
        self._happen(dispatch.WorkerUp(worker.number))

    def worker_acknowledged(self, worker: WorkerProcess) -> None:
        self._happen(dispatch.RevokeAcknowledged(worker.number))

    def worker_results(self, worker: WorkerProcess, results: list[Result]) -> None:
        tasks, number = self._dispatcher.tasks, worker.number
        finished: list[tuple[TaskId, float]] = []
        failed: list[ActorId] = []
        for result in results:
            task = tasks.get(result.id)
            if task is None:
                raise InternalError(f"worker {number} finished {result.id}, which it does not run")
            seconds = max(0.0, result.finished_at - result.started_at)
            finished.append((result.id, seconds))
            if isinstance(result, Done):
                ready = Ready(number, result)
                made: tuple[Made, ...] = ()
                spec = spec_of(task)
                if result.result.data is None or spec.output is not None or result.state is not None:
                    made = self._keep(worker, spec, result, ready)
                self.results[result.id] = ready
                done = events.Done(result.id, task.attempt, seconds, made, False, result.peak)
            else:
                self.results[result.id] = Ready(number, result)
                erred = isinstance(result, Erred)
                if erred and task.creates and task.actor is not None:
                    failed.append(task.actor)
                done = events.Done(result.id, task.attempt, seconds, (), erred)
            if worker.rooms:
                self._return_rooms(worker, result.id)
            self._done.append(done)
        self._happen(dispatch.Finished(number, finished))
        for task_id, _ in finished:
            if task_id in self.results:
                self.forget(task_id)  # made again to have a lost object back: nobody is told
        for actor in failed:
            self._happen(dispatch.ActorReleased(actor, False))

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
            self.rooms.give_back(room)
            return file
        object_id = self.objects.private()
        made.append(self.adopt(worker, object_id, written))
        return object_id

    def adopt(self, worker: WorkerProcess, object_id: ObjectId, written: Written) -> Made:
        """What the worker has written is the object. What was there before under its name is the same, and stays."""
        if written.data is not None:
            self.objects.inline[object_id] = written.data, written.digest
            return Made(object_id, written.size)
        room = self.rooms.used(worker.rooms.pop(written.request).number)
        known = object_id in self.objects.places
        if room.path:
            if not known:
                self.spill.adopt(object_id, room.path, written.size, written.checksum)
                self.objects.places[object_id] = Place(-1, written.size, written.digest, spilled=True)
            else:
                self.spill.discard(room.path)
            return Made(object_id, room.pages, room.number, True)
        place = self.objects.places.get(object_id)
        if place is not None and place.offset >= 0:
            self.rooms.release(room.offset)
        elif place is not None:
            place.offset = room.offset
        else:
            self.objects.places[object_id] = Place(room.offset, written.size, written.digest)
        return Made(object_id, room.pages, room.number)

    def worker_said(self, worker: WorkerProcess, message: Any) -> None:
        self._said[type(message)](worker, message)

    def _room_asked(self, worker: WorkerProcess, message: AskRoom) -> None:
        def answer(room: Room) -> None:
            self._crew.send(worker, [RoomMessage(message.request, room.offset, room.path, room.trouble)], 0)
            if room.trouble:
                worker.rooms.pop(message.request, None)
                self.rooms.give_back(room)

        room = self.rooms.ask(message.size, message.id, answer)
        worker.rooms[message.request] = room
        task = self._dispatcher.tasks.get(message.id) if message.id is not None else None
        self._owner.happen(
            events.RoomAsked(
                NODE,
                self.epoch,
                room.number,
                room.pages,
                task.id if task is not None else None,
                task.attempt if task is not None else 0,
            )
        )

    def _return_rooms(self, worker: WorkerProcess, task: TaskId | None = None) -> None:
        """Of one task, or all."""
        for request, room in list(worker.rooms.items()):
            if task is None or room.task == task:
                del worker.rooms[request]
                self.return_room(room)

    def return_room(self, room: Room) -> None:
        self.rooms.give_back(room)
        self._owner.happen(events.RoomReturned(NODE, self.epoch, room.number))

    def _yielded(self, worker: WorkerProcess, message: Yield) -> None:
        task = self._dispatcher.tasks[message.id]
        spec = spec_of(task)
        assert spec.output is not None
        object_id = (*spec.output, message.index)
        made = self.adopt(worker, object_id, message.result)
        self._unread[object_id] = message.id
        self._owner.happen(events.Yielded(NODE, self.epoch, message.id, task.attempt, made))
        self._owner.yielded(spec, message.index, object_id, message.result.size)

    def _read(self, objects: Sequence[ObjectId]) -> None:
        """Somebody reads these, or nobody will: their streams may go on."""
        counts: dict[TaskId, int] = {}
        for object_id in objects:
            stream = self._unread.pop(object_id, None)
            if stream is not None:
                counts[stream] = counts.get(stream, 0) + 1
        for stream, count in counts.items():
            self._say(stream, Credit(stream, count))

    def read(self, object_id: ObjectId) -> None:
        if self._unread:
            self._read([object_id])

    def stop(self, ids: Sequence[TaskId]) -> None:
        """Nobody wants more of these, if they run."""
        for task_id in ids:
            task = self._dispatcher.tasks.get(task_id)
            if task is not None and task.state is TaskState.RUNNING:
                self._say(task_id, Stop(task_id))

    def _say(self, task_id: TaskId, message: ToWorker) -> None:
        task = self._dispatcher.tasks.get(task_id)
        worker = self._crew.workers.get(task.worker) if task is not None else None
        if worker is not None:
            self._crew.send(worker, [message], 0)

    def _hold(self, worker: WorkerProcess, message: Hold) -> None:
        self.hold(worker, message.objects)

    def hold(self, worker: WorkerProcess, objects: Sequence[ObjectId]) -> None:
        fresh = []
        for object_id in objects:
            worker.holds[object_id] = worker.holds.get(object_id, 0) + 1
            self._held[object_id] = self._held.get(object_id, 0) + 1
            if self._held[object_id] == 1:
                fresh.append(object_id)
        if fresh:
            self._owner.happen(events.Held(NODE, self.epoch, tuple(fresh)))

    def _let_go(self, worker: WorkerProcess, message: LetGo) -> None:
        gone = []
        for object_id in message.objects:
            if worker.holds.get(object_id):
                worker.holds[object_id] -= 1
                if not worker.holds[object_id]:
                    del worker.holds[object_id]
                self._held[object_id] -= 1
                if not self._held[object_id]:
                    del self._held[object_id]
                    gone.append(object_id)
        if gone:
            self._owner.happen(events.LetGo(NODE, self.epoch, tuple(gone)))

    def _ask(self, worker: WorkerProcess, message: Ask) -> None:
        waits_for = self._owner.asked(worker.number, message)
        task = self._dispatcher.tasks.get(message.id) if message.id is not None else None
        if message.blocks and task is not None:
            worker.waits[message.number] = task.id
            self._owner.happen(events.Blocked(NODE, self.epoch, task.id, task.attempt, tuple(waits_for)))
            self._happen(dispatch.Blocked(worker.number))

    def answer(self, number: int, answer: Answer) -> None:
        """Answer a worker's Ask. One that is gone needs none. What the answer lets it hold, it holds already."""
        worker = self._crew.workers.get(number)
        if worker is None:
            return
        task_id = worker.waits.pop(answer.number, None)
        task = self._dispatcher.tasks.get(task_id) if task_id is not None else None
        if task is not None:
            self._owner.happen(events.Unblocked(NODE, self.epoch, task.id, task.attempt))
            self._happen(dispatch.Unblocked(number))
        self._crew.send(worker, [answer], 0)

    def worker(self, number: int) -> WorkerProcess | None:
        return self._crew.workers.get(number)

    @property
    def worker_count(self) -> int:
        return len(self._crew.workers)

    # ---- deaths -------------------------------------------------------------------------------

    def worker_down(self, worker: WorkerProcess) -> None:
        self._return_rooms(worker)
        self._let_go(worker, LetGo([name for name, count in worker.holds.items() for _ in range(count)]))
        self._dying = worker
        self._happen(dispatch.WorkerDown(worker.number, worker.unstarted))
        self._dying = None
        self.deaths.clear()
        self._owner.worker_gone(worker.number)

    def forker_gone(self) -> None:
        self._owner.forker_gone()

    def forget(self, task_id: TaskId) -> None:
        """The core has dropped what was said of the attempt."""
        ready = self.results.pop(task_id, None)
        if ready is not None:
            self._discard(ready)

    def _discard(self, ready: Ready) -> None:
        for large in (ready.value, ready.state):
            if isinstance(large, LentFile):
                large.close()

    # ---- memory -------------------------------------------------------------------------------

    def _look_at_memory(self, now: float) -> None:
        running = {
            worker.pid: task
            for worker in self._crew.workers.values()
            if worker.pid and (task := self._dispatcher.running(worker.number)) is not None
        }
        if not running:
            self.watch_at = None
            return
        reading = self._watch.read(list(running))
        self.watch_at = now + self._watch.pause()
        if reading.high or self._high:
            self._high = reading.high
            usage = [
                events.Usage(running[pid].id, running[pid].attempt, used) for pid, used in reading.processes.items()
            ]
            self._owner.happen(events.MemoryHigh(NODE, self.epoch, reading.used, reading.limit, usage))


def spec_of(task: dispatch.Task) -> TaskSpec:
    spec = task.spec
    assert isinstance(spec, TaskSpec)
    return spec


def _special(lease: core.Lease) -> dispatch.Task:
    request = lease.request
    spec = request.spec
    assert isinstance(spec, TaskSpec)
    actor = spec.actor
    return dispatch.Task(
        request.id,
        request.function,
        False,
        lease.attempt,
        request.need.cpus,
        spec.timeout,
        spec.grace,
        lease.devices,
        actor.id if actor is not None else None,
        spec.mode == "create",
        actor is not None and actor.concurrent,
        actor.threads if actor is not None else 1,
        spec,
    )
