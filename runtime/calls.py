"""Which of the tasks that were sent to this worker begins when, and on which thread.

They begin strictly in the order in which they were sent, each with a permit; so what has no permit left had not begun.
A plain task, and an actor's call that is not concurrent, begins when all before it have ended, on the main thread.
Concurrent calls run beside each other, up to `limit` of them: those of async methods on the actor's loop, others on
threads that are kept. Whoever ends a call begins the next one, if that is concurrent, too; else the main thread does.

May import nothing of ours but runtime modules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from dagengine.runtime.channel import Channel
from dagengine.runtime.execution import Executor
from dagengine.runtime.messages import Result, Run
from dagengine.runtime.permits import Permits
from dagengine.runtime.protocol import TaskId

if TYPE_CHECKING:
    import asyncio


class Calls:
    """`limit`: concurrent calls at a time. `running`: those that have begun and not ended.

    concurrent: there was any concurrent call: the main thread may have to be woken
    ended: called with each concurrent call's result, on its thread
    broken: called with what is wrong if such a thread can't go on
    """

    def __init__(
        self,
        channel: Channel,
        permits: Permits,
        executor: Executor,
        ended: Callable[[Run, Result], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self.limit = 1
        self.running = 0
        self.concurrent = False
        self._channel = channel
        self._permits = permits
        self._executor = executor
        self._ended = ended
        self._broken = broken
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[Run] = SimpleQueue()
        self._threads = 0
        self._alone = False  # what runs on the main thread
        self._on_loop: dict[TaskId, asyncio.Task[None]] = {}  # a loop itself holds its tasks weakly

    def begin_alone(self) -> Run | None:
        """Begin what is next, for the main thread to run; None if there is nothing that may begin there now.

        What was begun so before has ended by now. Concurrent calls that come before it are begun on the way.
        """
        tasks = self._channel.tasks
        self._alone = False
        while (first := self._first()) is not None:
            if first.concurrent:
                run = self._begin()
                if run is None:
                    return None
                self._start(run)
            elif not self.concurrent:
                return tasks.popleft() if self._permits.take() else None
            else:
                with self._lock:
                    # Whoever has just ended a concurrent call may be about to begin the one after this.
                    if self.running or not self._permits.take():
                        return None
                    self._alone = True
                    return tasks.popleft()
        return None

    def _begin(self) -> Run | None:
        """Begin the concurrent call that is next, if it may."""
        with self._lock:
            first = self._first()
            if first is None or not first.concurrent or self._alone or self.running >= self.limit:
                return None
            if not self._permits.take():
                return None
            self.running += 1
            return self._channel.tasks.popleft()

    def _first(self) -> Run | None:
        try:
            return self._channel.tasks[0]
        except IndexError:  # which may have come about just now: another thread has read a Revoke
            return None

    def _start(self, run: Run) -> None:
        self.concurrent = True
        actor = self._executor.actor
        if actor is not None and actor.is_async(run.method):
            actor.loop().call_soon_threadsafe(self._spawn, actor.loop(), run)
            return
        if self._threads < self.running:
            self._threads += 1
            threading.Thread(target=self._serve, name=f"call-{self._threads}", daemon=True).start()
        self._waiting.put(run)

    def _end(self, run: Run, result: Result) -> Run | None:
        """A concurrent call has ended: the one to go on with."""
        self._ended(run, result)
        with self._lock:
            self.running -= 1
        after = self._begin()
        if after is None and not self.running and (self._channel.tasks or self._channel.ended):
            # What is next is for the main thread; or it waits for the last to end. Should either come only now, it is
            # the main thread itself that reads it, and looks at `running` afterwards.
            self._channel.wake()
        return after

    def _serve(self) -> None:
        try:
            while True:
                run: Run | None = self._waiting.get()
                while run is not None:
                    run = self._end(run, self._executor.execute(run))
                    actor = self._executor.actor
                    if run is not None and actor is not None and actor.is_async(run.method):
                        self._start(run)
                        break
        except BaseException as error:
            self._broken(error)

    # ---- on the loop --------------------------------------------------------------------------

    def _spawn(self, loop: asyncio.AbstractEventLoop, run: Run) -> None:
        task = self._on_loop[run.id] = loop.create_task(self._call(run))
        self._channel.on_stop(run.id, lambda: loop.call_soon_threadsafe(task.cancel))

    async def _call(self, run: Run) -> None:
        try:
            result = await self._executor.execute_later(run)
            self._channel.on_stop(run.id, None)
            del self._on_loop[run.id]
            after = self._end(run, result)
            if after is not None:
                self._start(after)
        except BaseException as error:
            self._broken(error)
