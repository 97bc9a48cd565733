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
from dagengine.runtime.core.events import Event
from dagengine.runtime.crew import Crew, WorkerProcess
from dagengine.runtime.deaths import lost_failure
from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_model import TaskState
from dagengine.runtime.events import run_message
from dagengine.runtime.messages import (
    Ask,
    Define,
    Erred,
    Result,
    ToWorker,
)
from dagengine.runtime.moving import Mover, Post
from dagengine.runtime.objects import NODE, Objects, objects_of
from dagengine.runtime.output import save_output
from dagengine.runtime.pressure import Watch
from dagengine.runtime.protocol import ActorId, ObjectId, TaskId, TaskSpec
from dagengine.runtime.results import Results, spec_of
from dagengine.runtime.rooms import Rooms
from dagengine.runtime.spilling import SpillSpace
from dagengine.runtime.talking import Talk


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
        self.deaths: dict[TaskId, Death] = {}
        self.actor_deaths: dict[ActorId, Failure] = {}
        self.timer: float | None = None
        self.watch_at: float | None = None
        self.arena = arena
        self.spill = spill
        self.objects = Objects(arena)
        self.rooms = Rooms(arena, spill)
        self.results = Results(self.objects, self.rooms, spill)
        self.talk = Talk(self)
        self.tell = owner.happen
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
        self.owner = owner
        self._watch = watch
        self._definitions = definitions
        self._pending: list[dispatch.Event] = []
        self.dispatcher = Dispatcher(slots)
        self._high = False
        self._dying: WorkerProcess | None = None
        self._done: list[events.Done] = []
        self.crew = crew(self, (arena.descriptor, arena.size))
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
            dispatch.StartWorker: lambda action: self.crew.start_worker(action.worker),
            dispatch.Send: self._send,
            dispatch.Revoke: self._take_back,
            dispatch.Signal: self._signal,
            dispatch.Retire: self._retire,
            dispatch.SetTimer: self._set_timer,
            dispatch.Begun: self._begun,
            dispatch.Ended: self._ended,
            dispatch.ActorDown: self._actor_down,
            dispatch.GiveUp: lambda _: owner.give_up(self.crew.trouble),
            dispatch.AllGone: lambda _: owner.all_gone(),
        }

    # ---- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._perform(self.dispatcher.start())

    def close(self, force: bool) -> None:
        """Let the workers go when they have done what they run, or with `force` kill them."""
        self.happen(dispatch.Closing(force))

    def end(self) -> int:
        """Whatever is left is killed, and everything given back. The forker's exit code."""
        try:
            status = self.crew.close()
        finally:
            self.mover.close()
            self.results.close()
            self.spill.close()
            self.objects.loans.end()
        return status

    def tick(self, now: float) -> None:
        if self.timer is not None and now >= self.timer:
            self.timer = None
            self.happen(dispatch.Tick())
        if self.watch_at is not None and now >= self.watch_at:
            self._look_at_memory(now)

    # ---- the dispatcher -----------------------------------------------------------------------

    def happen(self, event: dispatch.Event) -> None:
        """Apply the event and carry out what follows. What that makes happen comes after it, in order."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending:
            self._perform(self.dispatcher.apply(self._pending[0], time.monotonic()))
            self._pending.pop(0)
        if self._done:
            self._tell_done()

    def _perform(self, actions: list[dispatch.Action]) -> None:
        for action in actions:
            self._carry_out[type(action)](action)

    def _tell_done(self) -> None:
        done, self._done = self._done, []
        self.tell(events.Finished(NODE, self.epoch, done))

    def _send(self, action: dispatch.Send) -> None:
        worker = self.crew.workers[action.worker]
        messages: list[ToWorker] = []
        pack, unread = self.objects.pack, self.talk.unread
        for task in action.tasks:
            if task.function not in worker.defined:
                worker.defined.add(task.function)
                messages.append(self._definitions[task.function])
            spec = spec_of(task)
            if unread:
                self.talk.read(objects_of(spec.inputs))
            messages.append(run_message(spec, pack, None if task.calls else task.devices))
        self.crew.send(worker, messages, len(action.tasks))

    def _take_back(self, action: dispatch.Revoke) -> None:
        worker = self.crew.workers.get(action.worker)
        count = self.crew.revoke(worker, action.count) if worker is not None else 0
        self.happen(dispatch.Revoked(action.worker, count))

    def _signal(self, action: dispatch.Signal) -> None:
        worker = self.crew.workers.get(action.worker)
        if worker is not None:
            self.crew.signal(worker, action.hard)

    def _retire(self, action: dispatch.Retire) -> None:
        self.crew.retire(self.crew.workers[action.worker])

    def _set_timer(self, action: dispatch.SetTimer) -> None:
        self.timer = action.at

    def _begun(self, action: dispatch.Begun) -> None:
        if self.watch_at is None:
            self.watch_at = time.monotonic() + self._watch.pause()
        self.owner.begun(action.task, self.crew.workers[action.task.worker])

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
        self.tell(event)

    def _actor_down(self, action: dispatch.ActorDown) -> None:
        worker, made = self._dying, action.made
        assert worker is not None
        assert worker.status is not None
        assert made.actor is not None
        self.actor_deaths[made.actor] = lost_failure(worker.status, worker.out_of_memory)
        self.tell(events.AttemptLost(NODE, self.epoch, made.id, made.attempt, action.ours))

    # ---- what the core wants ------------------------------------------------------------------

    def _welcome(self, action: core.Welcome) -> None:
        self.epoch = self.mover.epoch = action.epoch

    def _run(self, action: core.Run) -> None:
        tasks = []
        for lease in action.leases:
            request = lease.request
            if request.plain:
                task = dispatch.Task(request.id, request.function, True, lease.attempt, spec=request.spec)
                task.code = self._definitions[request.function].code
                task.grace = request.spec.grace  # type: ignore[attr-defined]
                tasks.append(task)
            else:
                tasks.append(_special(lease, self._definitions[request.function].code))
        self.happen(dispatch.Leased(tasks))

    def _revoke(self, action: core.Revoke) -> None:
        self.happen(dispatch.Cancelled(self._current(action.attempts), False))

    def _kill(self, action: core.Kill) -> None:
        for worker in list(self.dispatcher.staff.actors.values()):
            if worker.made is not None and (worker.made.id, worker.made.attempt) == (action.id, action.attempt):
                self.happen(dispatch.ActorReleased(worker.made.actor or (), True))
        self.happen(dispatch.Cancelled(self._current([(action.id, action.attempt)]), True))

    def _current(self, attempts: Sequence[tuple[TaskId, int]]) -> list[TaskId]:
        tasks = self.dispatcher.tasks
        return [task_id for task_id, attempt in attempts if (task := tasks.get(task_id)) and task.attempt == attempt]

    def _end_actor(self, action: core.EndActor) -> None:
        self.happen(dispatch.ActorReleased(action.actor, action.force))

    def _drop(self, action: core.Drop) -> None:
        self.talk.read(action.objects)
        self.mover.drop(action.objects, action.spilled)

    # ---- what workers say ---------------------------------------------------------------------

    def worker_up(self, worker: WorkerProcess) -> None:
        self.happen(dispatch.WorkerUp(worker.number))

    def worker_acknowledged(self, worker: WorkerProcess) -> None:
        self.happen(dispatch.RevokeAcknowledged(worker.number))

    def worker_results(self, worker: WorkerProcess, results: list[Result]) -> None:
        tasks, number = self.dispatcher.tasks, worker.number
        finished: list[tuple[TaskId, float]] = []
        failed: list[ActorId] = []
        for result in results:
            task = tasks.get(result.id)
            if task is None:
                raise InternalError(f"worker {number} finished {result.id}, which it does not run")
            if type(result) is Erred and result.failure.kind == "object":
                self._tell_damaged(task, result)
            done = self.results.take(worker, task, result)
            self._done.append(done)
            finished.append((result.id, done.seconds))
            if done.failed and task.creates and task.actor is not None:
                failed.append(task.actor)
            if worker.rooms:
                self.talk.return_rooms(worker, result.id)
        self.happen(dispatch.Finished(number, finished))
        for task_id, _ in finished:
            if task_id in self.results.ready:
                self.results.forget(task_id)  # made again to have a lost object back: nobody is told
        for actor in failed:
            self.happen(dispatch.ActorReleased(actor, False))

    def _tell_damaged(self, task: dispatch.Task, result: Erred) -> None:
        """The worker has found bytes that are not what was written: nobody else is to read them. A task may say so of
        anything; it is believed of what it reads."""
        said = {tuple(number) for number in result.failure.facts.get("objects", ())}
        for object_id in objects_of(spec_of(task).inputs):
            if object_id in said:
                self.tell(events.Damaged(NODE, self.epoch, object_id))

    def worker_said(self, worker: WorkerProcess, message: Any) -> None:
        self.talk.said(worker, message)

    def worker(self, number: int) -> WorkerProcess | None:
        return self.crew.workers.get(number)

    @property
    def worker_count(self) -> int:
        return len(self.crew.workers)

    # ---- deaths -------------------------------------------------------------------------------

    def worker_down(self, worker: WorkerProcess) -> None:
        self.talk.gone(worker)
        self._dying = worker
        self.happen(dispatch.WorkerDown(worker.number, worker.unstarted))
        self._dying = None
        self.deaths.clear()
        self.owner.worker_gone(worker.number)

    def forker_gone(self) -> None:
        self.owner.forker_gone()

    # ---- memory -------------------------------------------------------------------------------

    def _look_at_memory(self, now: float) -> None:
        running = {
            worker.pid: task
            for worker in self.crew.workers.values()
            if worker.pid and (task := self.dispatcher.running(worker.number)) is not None
        }
        if not running:
            self.watch_at = None
            return
        for worker in self.dispatcher.staff.actors.values():
            # An actor with nothing to do has its memory all the same; it goes by the task that made it.
            process = self.crew.workers[worker.id]
            if worker.made is not None and process.pid:
                running.setdefault(process.pid, worker.made)
        reading = self._watch.read(list(running))
        self.watch_at = now + self._watch.pause()
        if reading.high or self._high:
            self._high = reading.high
            usage = [
                events.Usage(running[pid].id, running[pid].attempt, used) for pid, used in reading.processes.items()
            ]
            self.tell(events.MemoryHigh(NODE, self.epoch, reading.used, reading.limit, usage))


def _special(lease: core.Lease, code: str) -> dispatch.Task:
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
        code,
    )
