"""The worker's loop: take a permit, run the task, send its result at once, clean up; wait when there is nothing.

No result is ever held back: it is sent before the next permit is taken. So when this process dies, those that ran are
the ones that have a permit taken and no result: one, or of an actor those that ran side by side (docs/design.md,
section 6).

What a task leaves behind (another folder, closed streams, threads) is undone where it would show in the next task; a
worker that can't go on ends, and is replaced.

**SIGTERM** is how the controller asks a worker to end with what it runs. The task on the main thread gets it as an
exception (`current.Terminated`), so that its `finally` and `with` clean up; whatever then comes of it, the process dies
of the signal. A handler of the task's own is called instead. Where there is no such task (the worker is idle; an
actor's calls run on other threads), the process dies at once. Code that does not come back to Python, or goes on,
meets SIGKILL when the grace time is over.

May import nothing of ours but runtime modules.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from dagengine.runtime import current
from dagengine.runtime.calls import Calls
from dagengine.runtime.deaths import FAILED
from dagengine.runtime.execution import Executor
from dagengine.runtime.frames import Link
from dagengine.runtime.messages import Define, Done, Hello, Result, Run, ToWorker
from dagengine.runtime.output import Capture
from dagengine.runtime.permits import Permits
from dagengine.runtime.surroundings import PeakMemory, Surroundings
from dagengine.runtime.worker_arena import WorkerArena
from dagengine.runtime.workplace import Workplace

_WATCHED: Final = 0.01
"""Seconds. Of attempts that took less, the memory is not looked at: they can't have touched much."""

_COLLECT: Final = 0.05
"""Seconds with nothing to do after which views that are held are looked for among garbage."""

_handler_of: Callable[[int], Any] = _signal.getsignal
"""`signal.getsignal` looks for an enumeration's member first, which for a function takes longer than a small task."""


def run_worker(
    sock: socket.socket,
    permits: int,
    output: int,
    arena: tuple[int, int] | None = None,
    threads: Sequence[str] = (),
) -> NoReturn:
    """The whole life of a worker in a process that was just forked. Never returns.

    arena: its descriptor and size
    threads: environment variables that are ours to set to the number of threads
    """
    status = FAILED
    try:
        _work(sock, permits, output, WorkerArena(*arena) if arena else None, threads)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # The controller is gone: there is nobody to work for.
    except current.Terminated:
        _die()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        # Whatever else goes wrong: what is above this on the stack belongs to the parent.
        os._exit(status)


def _work(sock: socket.socket, permits: int, output: int, arena: WorkerArena | None, threads: Sequence[str]) -> None:
    link: Link[ToWorker] = Link(sock, ToWorker)
    try:
        worker = Worker(link, Permits(permits), output, arena, threads)
    except BaseException as error:
        link.send([Hello(f"{type(error).__name__}: {error}")])
        raise
    link.send([Hello()])
    worker.loop()
    sys.stdout.flush()


def _die() -> None:
    """As if SIGTERM had no handler."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)


class Worker:
    """One process's."""

    def __init__(
        self, link: Link[ToWorker], permits: Permits, output: int, arena: WorkerArena | None, threads: Sequence[str]
    ) -> None:
        self._pid = os.getpid()
        self._capture = Capture(output)
        self._capturing = threading.Lock()
        self._place = Workplace(link, arena, self._define)
        self._executor = Executor(self._place)
        self._calls = Calls(self._place.channel, permits, self._executor, self._concurrent_ended, self._broken)
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._surroundings = Surroundings(threads)
        self._peak = PeakMemory()
        self._terminable = False
        self._terminated = False
        self._on_sigterm = self._terminate  # one object, to be recognised
        signal.signal(signal.SIGTERM, self._on_sigterm)
        current.link = self._place
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            # Python's own generator reseeds itself in a new process; NumPy's would repeat its siblings' numbers.
            numpy_random.seed()

    def _define(self, message: Define) -> None:
        self._executor.define(message)

    def loop(self) -> None:
        """Until the controller closes its end and all that was sent has been run."""
        channel, calls = self._place.channel, self._calls
        while True:
            seen = channel.arrivals
            while (run := calls.begin_alone()) is not None:
                self._run(run)
                seen = channel.arrivals
            # Without a permit, what is left has been revoked, and the message that says so is on its way.
            if channel.ended and not calls.running:
                return
            self._wait(seen)

    def _wait(self, seen: int) -> None:
        place = self._place
        if not place.used and not self._calls.concurrent:
            place.channel.wait_for_tasks(seen, wakeable=False)
            return
        place.idle = True
        place.settle()
        # Views may hang in garbage that nobody collects while there is nothing to do. An actor's are its state.
        patience = _COLLECT if place.inputs.held and self._executor.actor is None else None
        if not place.channel.wait_for_tasks(seen, wakeable=True, timeout=patience):
            gc.collect()
            place.settle()
            place.channel.wait_for_tasks(seen, wakeable=True)
        place.idle = False

    def _run(self, run: Run) -> None:
        self._surroundings.prepare(run)
        result: Result | None = None
        try:
            self._terminable = True
            result = self._executor.execute(run)
            self._terminable = False
        except current.Terminated:
            pass
        if os.getpid() != self._pid:
            os._exit(0)  # The task forked, and this is its child, which came back with the result.
        if result is None or self._terminated:
            # Not the task's end, whatever it made of the exception: the controller has ended it.
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()  # the controller saves what was printed
            _die()
            return
        if run.mode == "create" and type(result) is Done:
            self._calls.limit = max(run.threads, 1)
        if type(result) is Done and result.finished_at - result.started_at > _WATCHED:
            result.peak = self._peak.take()
        # Before the result: when the attempt is over for the engine, its log is complete.
        self._capture.finish(run.log)
        self._place.finish(result)
        os.fchdir(self._folder)
        if _handler_of(signal.SIGTERM) is not self._on_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _concurrent_ended(self, run: Run, result: Result) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        with self._capturing:
            # What calls print side by side can't be told apart: it goes to the log of whichever ends first.
            self._capture.finish(run.log)
        self._place.finish(result)

    def _broken(self, error: BaseException) -> None:
        """A thread of ours, not the main one, can't go on."""
        if isinstance(error, (BrokenPipeError, ConnectionResetError)):
            os._exit(0)
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
        os._exit(FAILED)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid or not self._terminable:
            _die()  # or a child that the task forked: it inherited this, and is none of our workers
        elif not self._terminated:
            self._terminated = True
            raise current.Terminated
