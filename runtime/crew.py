"""The processes behind the runtime: the forker, the workers, and what connects them with us.

Knows sockets, permits, descriptors and wait statuses; decides nothing. What happens is told to a `Listener`, whose
methods are called from `handle`. Used by one thread only.

May import nothing of ours but errors, model and runtime modules. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any, Final, Protocol

from dagengine.errors import InternalError
from dagengine.runtime.dispatch_model import PREFETCH_TASKS
from dagengine.runtime.forker import start_forker
from dagengine.runtime.frames import Link
from dagengine.runtime.memory import oom_kills
from dagengine.runtime.messages import (
    Acknowledge,
    Ask,
    AskRoom,
    Done,
    Erred,
    Exited,
    Expanded,
    Fork,
    Forked,
    FromForker,
    FromWorker,
    GiveBack,
    Hello,
    Hold,
    Kill,
    LetGo,
    NotForked,
    Packed,
    Result,
    Revoke,
    ToWorker,
    Yield,
)
from dagengine.runtime.output import new_output
from dagengine.runtime.permits import Permits
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.rooms import Room

WAIT_SECONDS: Final = 10.0
"""For a process that was killed to be gone. It is a matter of milliseconds, unless the kernel itself is stuck."""


class Listener(Protocol):
    def worker_up(self, worker: WorkerProcess) -> None: ...

    def worker_results(self, worker: WorkerProcess, results: list[Result]) -> None: ...

    def worker_said(self, worker: WorkerProcess, message: AskRoom | GiveBack | Yield | Hold | LetGo | Ask) -> None: ...

    def worker_acknowledged(self, worker: WorkerProcess) -> None: ...

    def worker_down(self, worker: WorkerProcess) -> None:
        """`worker` can be asked about for the last time: afterwards all of it is closed."""

    def forker_gone(self) -> None: ...


class WorkerProcess:
    """One worker, from our side.

    status: its wait status; None if it never was a process
    out_of_memory: the kernel killed it, and says that it has killed for lack of memory
    defined: functions that it knows
    rooms: that it has asked for, by its own numbers, and not used yet; holds: objects that it has views on, and how
        many; waits: tasks that wait for the answer to an Ask, by its number
    """

    def __init__(self, number: int, link: Link[FromWorker], permits: Permits, output: int) -> None:
        self.number = number
        self.link = link
        self.permits = permits
        self.output = output
        self.defined: set[int] = set()
        self.rooms: dict[int, Room] = {}
        self.holds: dict[ObjectId, int] = {}
        self.waits: dict[int, TaskId] = {}
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        self.out_of_memory = False
        self.unstarted = 0
        self.signalled = False

    def close(self) -> None:
        self.link.close()
        self.permits.close()
        os.close(self.output)
        if self.pidfd >= 0:
            os.close(self.pidfd)


class Crew:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        scratch: str | None,
        listener: Listener,
        arena: tuple[int, int] | None = None,
    ) -> None:
        self.workers: dict[int, WorkerProcess] = {}
        self.trouble = ""
        self._selector = selector
        self._scratch = scratch
        self._listener = listener
        self._oom_kills = oom_kills()
        self._forker, sock = start_forker(arena)
        sock.setblocking(False)
        self._control: Link[FromForker] = Link(sock, FromForker)
        selector.register(self._control, selectors.EVENT_READ, self._forker_ready)

    # ---- orders -------------------------------------------------------------------------------

    def start_worker(self, number: int) -> None:
        with contextlib.ExitStack() as undo:
            output = new_output(self._scratch)
            undo.callback(os.close, output)
            permits = Permits()
            undo.callback(permits.close)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                given = [os.dup(own) for own in (theirs.fileno(), permits.descriptor, output)]
            undo.pop_all()
        worker = WorkerProcess(number, Link(ours, FromWorker), permits, output)
        self.workers[number] = worker
        self._selector.register(worker.link, selectors.EVENT_READ, lambda mask: self._worker_ready(worker, mask))
        self._order(Fork(number), given)

    def send(self, worker: WorkerProcess, messages: Sequence[ToWorker], permits: int) -> None:
        """Give the worker messages and as many permits as there are tasks among them."""
        # Permits first: a worker that holds a task and finds no permit takes it for revoked.
        if permits:
            worker.permits.post(permits)
        try:
            if not worker.link.send(messages):
                self._watch(worker, selectors.EVENT_READ | selectors.EVENT_WRITE)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It died; its wait status is on its way.

    def revoke(self, worker: WorkerProcess, most: int) -> int:
        """Take back up to `most` tasks, the last that were sent. How many it is."""
        count = worker.permits.take_up_to(most)
        if count:
            self.send(worker, [Revoke(count)], 0)
        return count

    def signal(self, worker: WorkerProcess, hard: bool) -> None:
        worker.signalled = True
        self._order(Kill(worker.number, signal.SIGKILL if hard else signal.SIGTERM))

    def retire(self, worker: WorkerProcess) -> None:
        """The worker ends when it has done what was sent."""
        with contextlib.suppress(OSError):  # It may be dead already.
            worker.link.socket.shutdown(socket.SHUT_WR)

    def _order(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        try:
            if not self._control.send([message], descriptors):
                self._selector.modify(self._control, selectors.EVENT_READ | selectors.EVENT_WRITE, self._forker_ready)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The forker died, which is about to show.

    # ---- what happens -------------------------------------------------------------------------

    def _watch(self, worker: WorkerProcess, events: int) -> None:
        key = self._selector.get_map().get(worker.link)
        if key is not None and key.events != events:
            self._selector.modify(worker.link, events, key.data)

    def _worker_ready(self, worker: WorkerProcess, mask: int) -> None:
        if worker.number not in self.workers:
            return  # The forker's report of its end came first in the same turn.
        if mask & selectors.EVENT_WRITE:
            try:
                if worker.link.flush():
                    self._watch(worker, selectors.EVENT_READ)
            except (BrokenPipeError, ConnectionResetError):
                self._watch(worker, selectors.EVENT_READ)
        if mask & selectors.EVENT_READ and not self._read(worker):
            # It dies, or its task has closed its socket, and it will as soon as it has a result to send.
            self._selector.unregister(worker.link)

    def _read(self, worker: WorkerProcess) -> bool:
        """Read once. False if nothing more can come."""
        try:
            messages = worker.link.receive()
        except InternalError:
            # The task wrote into our socket: the process can't be understood any more.
            self.signal(worker, hard=True)
            return False
        if messages is None:
            return False
        results: list[Result] = []
        for message in messages:
            if isinstance(message, Hello):
                if message.trouble is None:
                    self._listener.worker_up(worker)
                else:
                    self.trouble = message.trouble
            elif isinstance(message, Acknowledge):
                self._listener.worker_acknowledged(worker)
            elif isinstance(message, (Done, Expanded, Erred)):
                results.append(message)
            elif not isinstance(message, Packed):
                if results:  # What comes after them may be about the next task.
                    self._listener.worker_results(worker, results)
                    results = []
                self._listener.worker_said(worker, message)
        if results:
            self._listener.worker_results(worker, results)
        return True

    def _forker_ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            try:
                if self._control.flush():
                    self._selector.modify(self._control, selectors.EVENT_READ, self._forker_ready)
            except (BrokenPipeError, ConnectionResetError):
                pass
        if not mask & selectors.EVENT_READ:
            return
        messages = self._control.receive()
        if messages is None:
            self._selector.unregister(self._control)
            self._listener.forker_gone()
            return
        for message in messages:
            worker = self.workers[message.worker] if not isinstance(message, Packed) else None
            if worker is None:
                continue
            if isinstance(message, Forked):
                worker.pid = message.pid
                with contextlib.suppress(ProcessLookupError):
                    worker.pidfd = os.pidfd_open(message.pid)
            elif isinstance(message, NotForked):
                self.trouble = message.reason
                self._down(worker)
            elif isinstance(message, Exited):
                worker.status = message.status
                self._down(worker)

    def _down(self, worker: WorkerProcess) -> None:
        # All that it sent lies in its socket, which may be open in a process that it started: read until it is empty.
        while self._read(worker) and not worker.link.exhausted:
            pass
        worker.unstarted = worker.permits.take_up_to(PREFETCH_TASKS)
        if worker.status is not None and os.WIFSIGNALED(worker.status) and not worker.signalled:
            worker.out_of_memory = os.WTERMSIG(worker.status) == signal.SIGKILL and self._kernel_killed()
        del self.workers[worker.number]
        if worker.link in self._selector.get_map():
            self._selector.unregister(worker.link)
        self._listener.worker_down(worker)
        worker.close()

    def _kernel_killed(self) -> bool:
        before, self._oom_kills = self._oom_kills, oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    # ---- the end ------------------------------------------------------------------------------

    def close(self) -> int:
        """Kill what is left, wait until it is gone, and let go of everything. The forker's exit code."""
        # Its end of the control socket closes: the forker kills all workers, reaps them and ends.
        self._control.close()
        try:
            self._forker.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._forker.kill()
            self._forker.wait()
        for worker in self.workers.values():
            # If it could not: workers die with it, but not what they started.
            if worker.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
            if worker.pidfd >= 0:
                poll = select.poll()
                poll.register(worker.pidfd, select.POLLIN)
                poll.poll(WAIT_SECONDS * 1000)
            worker.close()
        self.workers.clear()
        return self._forker.returncode
