"""Tasks on worker processes of this machine.

One thread owns scheduler core, node agent and crew, and waits in one selector: for the forker, for the workers, for
whoever submits. Other threads only append to an inbox and wake it, which is what this module is about; or, where they can
spare the time, hand a few tasks to their workers by themselves while that thread sleeps.

    submit, put, read, … ─▶ inbox ─┐                        ┌─▶ node agent ─▶ frames, permits ─▶ workers
    workers' results ──────────────┼─▶ core.apply ─▶ actions ┤
    forker's reports, the clock ───┘                        └─▶ events ────────▶ sink

A worker's death is complete when the forker has reported its wait status *and* everything that it had sent is read;
then its remaining permits say what it had not begun.

May import nothing of ours but errors, model, values and runtime modules. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import selectors
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from dagengine.errors import Infeasible, InternalError, ObjectStoreFull, RuntimeStopped
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.arena import Arena
from dagengine.runtime.conversion import need_of, request_of, resources_of
from dagengine.runtime.core.events import (
    UNIT,
    ActorReleased,
    Cancelled,
    Capacity,
    Closing,
    Device,
    Event,
    Freed,
    GroupReleased,
    Submitted,
)
from dagengine.runtime.core.limits import STALL_SECONDS
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.core.placement import misfit
from dagengine.runtime.crew import Crew
from dagengine.runtime.devices import declared, find_devices
from dagengine.runtime.events import Sink
from dagengine.runtime.forker import import_path
from dagengine.runtime.inspection import explain, node_facts, statistics, waits
from dagengine.runtime.memory import memory_capacity, object_memory_default
from dagengine.runtime.messages import Answer, Define, Written
from dagengine.runtime.node import NodeAgent
from dagengine.runtime.objects import PAGE
from dagengine.runtime.pressure import Watch
from dagengine.runtime.protocol import (
    NO_CODE,
    ActorId,
    Asked,
    CodePack,
    Content,
    GroupId,
    NodeFacts,
    ObjectId,
    Resources,
    TaskId,
    TaskSpec,
)
from dagengine.runtime.putting import write_put
from dagengine.runtime.shell import Asked as Serving
from dagengine.runtime.shell import Errand, Shell
from dagengine.runtime.spilling import SpillSpace
from dagengine.values import Encoded

DESCRIPTORS: Final = 8
"""For each worker: its own four, and some for what is on its way."""

FEW: Final = 4
"""Tasks that whoever submits may take in by himself. With more of them there is enough to do for two threads."""

_NOT_OPEN: Final = "the runtime is not open: it was closed, or one of its processes died"

T = TypeVar("T")


class ProcessRuntime:
    """`workers` processes, and more while tasks wait inside themselves or need less than a cpu.

    scratch: folder for what tasks print until it goes to their logs; None: the system's temporary one. Nothing in it
        has a name
    memory: bytes that tasks may ask for, and have, in all; None: most of what there is
    object_memory: the hard limit of bytes for objects in memory; None: a part of what there is
    spill: where objects go for which there is no room: folders, or URLs that fsspec knows; (): the scratch folder
    room_timeout: seconds that a task whose inputs find no room waits at least, when nothing can be spilled any more
    gpus: how many there are, of `gpu_memory` bytes each; None: what is found
    resources: named ones that tasks may ask for
    at_once: a few tasks are handed to their workers on the thread that submits them, if nobody else is at it. Not for a
        thread that signals may interrupt

    serving: serves tasks that use the runtime themselves; set before `open`
    """

    def __init__(
        self,
        workers: int,
        *,
        scratch: str | None = None,
        memory: int | None = None,
        object_memory: int | None = None,
        spill: Sequence[str] = (),
        room_timeout: float = STALL_SECONDS,
        gpus: int | None = None,
        gpu_memory: int | None = None,
        resources: Mapping[str, float] | None = None,
        at_once: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a runtime needs at least 1 worker, not {workers}")
        self.serving: Serving | None = None
        self._workers = workers
        self._at_once = at_once
        self._scratch = scratch
        self._spill = tuple(spill) or (scratch or tempfile.gettempdir(),)
        self._memory_limit = memory
        self._room_timeout = room_timeout
        arena = max(1, (object_memory_default() if object_memory is None else object_memory) // PAGE) * PAGE
        devices = find_devices(os.environ) if gpus is None else declared(gpus, gpu_memory or 0)
        self._capacity = Capacity(
            platform.node(),
            workers * UNIT,
            memory_capacity(arena) if memory is None else memory,
            arena,
            tuple(Device(device.id, device.memory) for device in devices),
            tuple(sorted((name, round(amount * UNIT)) for name, amount in (resources or {}).items())),
            workers,
        )
        self._definitions: dict[int, Define] = {}
        self._lock = threading.RLock()  # a collection may drop a Lent, which posts, while its thread has the lock
        self._inbox: deque[Event | Errand] = deque()
        self._wake: int | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._why_not_open = _NOT_OPEN
        self._woken = False
        self._waiting: set[_Waiter] = set()
        self._shell: Shell | None = None

    # ---- any thread: life ---------------------------------------------------------------------

    def open(self, sink: Sink) -> None:
        if sys.platform != "linux":
            raise RuntimeStopped("worker processes need Linux: use the inline runtime here")
        with self._lock:
            if self._thread is not None or self._closed:
                raise RuntimeStopped("the runtime was opened before: make a new one")
            _allow_descriptors(1024 + self._workers * DESCRIPTORS)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._shell = shell = Shell(
                Scheduler(self._room_timeout),
                self._capacity,
                sink,
                make_agent=self._agent,
                wake=self._wake,
                inbox=self._take,
                serving=self.serving,
            )
            self._thread = threading.Thread(target=self._run, args=(shell,), name="dagengine-runtime", daemon=True)
            self._thread.start()

    def close(self, force: bool = False) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is None:
                return
            self._put(Closing(force))
        if thread is not threading.current_thread():
            thread.join()

    # ---- any thread: tasks --------------------------------------------------------------------

    def define(self, function: int, reference: dict[str, Any], code: CodePack = NO_CODE) -> None:
        group, pack = code
        self._definitions[function] = Define(function, reference, import_path(), group, pack)

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        if self._closed:
            raise RuntimeStopped(self._why_not_open)
        requests = []
        for spec in tasks:
            request = request_of(spec)
            if not request.plain:
                problem = misfit(request.need, [self._capacity])
                if problem is not None:
                    raise Infeasible(problem)
            if spec.function not in self._definitions:
                raise InternalError(f"task {spec.id} is of function {spec.function}, which was not defined")
            requests.append(request)
        event = Submitted(requests)
        if not (self._at_once and len(requests) <= FEW and self._take_in(event)):
            self._hand_over(event)

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        ids = list(ids)
        with contextlib.suppress(RuntimeStopped):  # and so nothing of it goes on
            if not force:
                self._hand_over(lambda shell: shell.agent.talk.stop(ids))
            self._hand_over(Cancelled(ids, force))

    def release(self, actors: Sequence[ActorId], force: bool = False) -> None:
        with contextlib.suppress(RuntimeStopped):  # and so none of them lives
            for actor in actors:
                self._hand_over(ActorReleased(actor, force))

    def answer(self, worker: int, answer: Answer) -> None:
        """Answer what a task has asked. For `serving`."""
        self._hand_over(lambda shell: shell.agent.talk.answer(worker, answer))

    def reply(self, asked: Asked, answer: Any = None, failure: Failure | None = None) -> None:
        if asked.number >= 0:
            with contextlib.suppress(RuntimeStopped):  # and so nobody waits
                self.answer(asked.worker, Answer(asked.number, answer, failure))

    # ---- any thread: objects ------------------------------------------------------------------

    def put(self, object_id: ObjectId, value: Encoded) -> None:
        if value.size <= INLINE_LIMIT:
            data = value.to_bytes()
            self._hand_over(lambda shell: shell.requests.stored_inline(object_id, data))
            return
        given = self._wait(lambda shell, told: shell.requests.ask_room(value.size, told))
        room = given.room
        if room.trouble:
            given.keep.close()
            self._hand_over(lambda shell: shell.agent.rooms.give_back(room))
            raise ObjectStoreFull(room.trouble)
        try:
            checksum = write_put(given.writer, room, value)
        except BaseException as error:
            self._hand_over(lambda shell: shell.agent.talk.return_room(room))
            if isinstance(error, OSError):
                raise ObjectStoreFull(f"an object of {value.size:,} bytes can't be put: {error}") from error
            raise
        finally:
            given.keep.close()
        self._hand_over(lambda shell: shell.requests.stored(object_id, room, checksum))

    def read(self, object_id: ObjectId, told: Callable[[Content | Failure], None]) -> None:
        self._hand_over(lambda shell: shell.requests.lend(object_id, told))

    def read_for(self, worker: int, object_id: ObjectId, told: Callable[[Any], None]) -> None:
        """The object as an input for the worker, which holds it then; or a Failure. For `serving`."""
        self._hand_over(lambda shell: shell.requests.read_for(worker, object_id, told))

    def adopt(self, worker: int, object_id: ObjectId, written: Written) -> None:
        """The worker has written a value, which is an object from now on. For `serving`, on the runtime's thread."""
        self._hand_over(lambda shell: shell.requests.adopt(worker, object_id, written))

    def free(self, objects: Sequence[ObjectId]) -> None:
        self._hand_over(Freed(list(objects)))

    # ---- any thread: resources ----------------------------------------------------------------

    def capacity(self) -> Resources:
        return resources_of(self._capacity)

    def reserve(
        self, group: GroupId, bundles: Sequence[Resources], strategy: str, told: Callable[[Failure | None], None]
    ) -> None:
        needs = tuple(need_of(bundle) for bundle in bundles)
        for need in needs:
            problem = misfit(need, [self._capacity])
            if problem is not None:
                raise Infeasible(problem)
        self._hand_over(lambda shell: shell.requests.reserve(group, needs, strategy, told))

    def unreserve(self, group: GroupId) -> None:
        self._hand_over(GroupReleased(group))

    def nodes(self) -> list[NodeFacts]:
        return self._look(node_facts)

    def explain(self, task_id: TaskId) -> dict[str, Any]:
        return self._look(lambda shell: explain(shell, task_id))

    def waits(self) -> dict[TaskId, str]:
        return self._look(waits)

    def stats(self) -> dict[str, int | float]:
        return self._look(statistics)

    # ---- the way to the runtime's thread ------------------------------------------------------

    def _hand_over(self, given: Event | Errand) -> None:
        with self._lock:
            if self._closed or self._thread is None:
                if self._thread is threading.current_thread():
                    self._put(given)  # of the runtime's own last turns
                    return
                raise RuntimeStopped(self._why_not_open)
            self._put(given)

    def _take_in(self, event: Submitted) -> bool:
        """Do on this thread what the runtime's would do with it, if that sleeps and nothing waits for it."""
        shell = self._shell
        if shell is None or not shell.turn.acquire(blocking=False):
            return False
        try:
            with self._lock:
                if self._closed or self._inbox:
                    return False
            wake = shell.submit(event)
        finally:
            shell.turn.release()
        if wake:
            with self._lock:
                self._wake_up()
        return True

    def _post(self, errand: Callable[[], None]) -> None:
        """From threads of the runtime's own, and finalisers: harmless when there is nobody to do it any more."""
        with self._lock:
            if self._wake is not None:
                self._put(lambda shell: errand())

    def _put(self, given: Event | Errand) -> None:
        self._inbox.append(given)
        self._wake_up()

    def _wake_up(self) -> None:
        # Once for all that comes before the runtime's thread looks.
        if not self._woken and self._wake is not None:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def _look(self, at: Callable[[Shell], T]) -> T:
        if threading.current_thread() is self._thread:
            assert self._shell is not None
            return at(self._shell)
        found: T = self._wait(lambda shell, told: told(at(shell)))
        return found

    def _wait(self, errand: Callable[[Shell, Callable[[Any], None]], None]) -> Any:
        """What the errand tells. Raises RuntimeStopped, if it is over before it does."""
        if threading.current_thread() is self._thread:
            raise InternalError("the runtime's own thread can't wait for itself")
        waiter = _Waiter()
        with self._lock:
            self._hand_over(lambda shell: errand(shell, waiter.tell))
            self._waiting.add(waiter)
        waiter.done.wait()
        with self._lock:
            self._waiting.discard(waiter)
        if isinstance(waiter.found, Failure):
            raise RuntimeStopped(waiter.found.message)
        return waiter.found

    # ---- the runtime's thread -----------------------------------------------------------------

    def _agent(self, shell: Shell, selector: selectors.BaseSelector) -> NodeAgent:
        arena = Arena(self._capacity.arena, self._scratch)
        spill = SpillSpace(self._spill)
        try:
            agent = NodeAgent(
                shell,
                lambda agent, given: Crew(selector, self._scratch, agent, given),
                slots=self._workers,
                arena=arena,
                spill=spill,
                watch=Watch(self._memory_limit),
                definitions=self._definitions,
                post=self._post,
            )
        except BaseException:
            spill.close()
            arena.close()
            raise
        agent.mover.run(lambda: _sweep(spill))
        return agent

    def _take(self) -> list[Event | Errand]:
        # Without the lock, which whoever rings still has: this thread would wake up only to wait for it. What is put
        # before `_woken` is False is in the inbox by now, and what comes later rings again.
        assert self._wake is not None
        os.eventfd_read(self._wake)
        self._woken = False
        inbox = self._inbox
        return [inbox.popleft() for _ in range(len(inbox))]

    def _run(self, shell: Shell) -> None:
        try:
            shell.run()
        finally:
            with self._lock:
                self._closed = True
                if shell.broken is not None:
                    self._why_not_open = shell.broken.message
                wake, self._wake = self._wake, None
                if wake is not None:
                    os.close(wake)
                waiting, self._waiting = self._waiting, set()
                self._inbox.clear()
                self._shell = None
            for waiter in waiting:
                waiter.tell(Failure("internal", "dagengine.errors.RuntimeStopped", "the runtime was closed"))


def _sweep(spill: SpillSpace) -> None:
    with contextlib.suppress(Exception):  # what others have left does no harm but to the disk
        spill.sweep()


class _Waiter:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: Any = None

    def tell(self, found: Any) -> None:
        if not self.done.is_set():
            self.found = found
            self.done.set()


def _allow_descriptors(count: int) -> None:
    """Raise this process's own limit of open files, where it may: the usual 1,024 date from the days of select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
