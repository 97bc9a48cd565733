"""The worker's end of its socket, for all its threads: whoever waits for something reads for everybody.

The main thread waits for tasks, a task for the room that it asked for or for an answer, a stream for credit; of an actor
many threads at once. No thread is there just to read: the first that has to wait reads, sorts what comes to whom it
belongs, and when it has its own, another one that still waits takes over. So a task that asks nothing pays for nothing.

    _changed     guards what is sorted; notified after every read
    _sending     guards the socket's other direction: frames of two threads do not mix
    torn         a read or write was cut off (a signal handler of the task raised inside of it): the stream can't be
                 understood any more, and the worker has to end

May import nothing of ours but errors and runtime.{frames,messages,protocol}.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from dagengine.errors import RuntimeStopped
from dagengine.runtime.frames import Link
from dagengine.runtime.messages import (
    Acknowledge,
    Answer,
    Ask,
    AskRoom,
    Credit,
    Define,
    FromWorker,
    GiveBack,
    Revoke,
    Room,
    Run,
    Stop,
    ToWorker,
)
from dagengine.runtime.protocol import ObjectId, TaskId

_EARLY: Final = 64
"""Stops that are kept because they came before their attempt had said how to stop it. Most never will, being plain."""

_TORN: Final = "a signal handler of the task has cut a message off: this worker can't go on"
_ENDED: Final = "the runtime was closed while a task waited for it"


class Channel:
    """`tasks`: what was sent to be run and has not begun. `ended`: the controller has closed its end.

    arrivals: counts what changes these two
    define: what to do with a Define
    unwanted: what to do with the holds of an answer for which nobody waits any more
    """

    def __init__(
        self,
        link: Link[ToWorker],
        define: Callable[[Define], None],
        unwanted: Callable[[Sequence[ObjectId]], None] = lambda _: None,
    ) -> None:
        self.tasks: deque[Run] = deque()
        self.ended = False
        self.arrivals = 0
        self.torn = False
        self._link = link
        self._define = define
        self._unwanted = unwanted
        self._changed = threading.Condition(threading.Lock())
        self._reading = False
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._awaited: dict[int, Room | Answer | None] = {}
        self._streams: dict[TaskId, Stream] = {}
        self._stops: dict[TaskId, Callable[[], object]] = {}
        self._early: deque[TaskId] = deque(maxlen=_EARLY)
        self._woken = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    # ---- out ----------------------------------------------------------------------------------

    def send(self, messages: Sequence[FromWorker]) -> None:
        """Raises OSError if the controller is gone, RuntimeStopped if the stream is torn."""
        with self._sending:
            if self.torn:
                raise RuntimeStopped(_TORN)
            try:
                self._link.send(messages)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except BaseException:
                self.torn = True
                raise

    # ---- in -----------------------------------------------------------------------------------

    def wait_for_tasks(self, seen: int, wakeable: bool, timeout: float | None = None) -> bool:
        """Until `arrivals` is not `seen`, or (if `wakeable`) `wake` was called. May return for less. False: nothing
        came within `timeout`, which takes `wakeable` as well."""
        with self._changed:
            if self.arrivals != seen:
                return True
            if wakeable and self._woken:
                self._woken = False
                return True
            if self._reading:
                # A thread that a task has left behind waits for an answer, and reads for us.
                came = self._changed.wait(timeout)
            else:
                came = self._read(not wakeable, timeout)
            self._woken = False
            return came

    def wake(self) -> None:
        """Let `wait_for_tasks` return. From any thread, also inside of a garbage collection: takes no lock."""
        os.eventfd_write(self._wake, 1)

    def ask_room(self, size: int, task: TaskId | None) -> Room:
        """Where to write. Raises RuntimeStopped."""
        number = next(self._numbers)
        answer = self._call(number, [AskRoom(number, size, task)])
        assert isinstance(answer, Room)
        return answer

    def give_back(self, room: Room) -> None:
        """Nobody writes there. Harmless when there is nobody to be told any more."""
        if not room.trouble:
            with contextlib.suppress(OSError, RuntimeStopped):
                self.send([GiveBack(room.request)])

    def ask(self, ask: Callable[[int], Ask], before: Sequence[FromWorker] = ()) -> Answer:
        """`ask` makes the message with the number that it gets; `before` goes first. Raises RuntimeStopped."""
        number = next(self._numbers)
        answer = self._call(number, [*before, ask(number)])
        assert isinstance(answer, Answer)
        return answer

    def _call(self, number: int, messages: Sequence[FromWorker]) -> Room | Answer:
        self._awaited[number] = answer = None
        taken = False
        try:
            self.send(messages)
            self._wait(lambda: self._awaited[number] is not None)
            taken = True
        except (BrokenPipeError, ConnectionResetError):
            raise RuntimeStopped(_ENDED) from None
        finally:
            with self._changed:
                answer = self._awaited.pop(number)
            if not taken and isinstance(answer, Answer):
                self._unwanted(answer.holds)
            elif not taken and isinstance(answer, Room) and not self.torn:
                self.give_back(answer)
        assert answer is not None
        return answer

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            while not ready():
                if self.ended:
                    raise RuntimeStopped(_ENDED)
                if self.torn:
                    raise RuntimeStopped(_TORN)
                if self._reading:
                    self._changed.wait()
                else:
                    self._read(False, None)

    def look(self) -> None:
        """Take what has arrived, without waiting."""
        with self._changed:
            if not self._reading and not self.ended:
                self._read(False, 0)

    def _read(self, bare: bool, timeout: float | None) -> bool:
        """Read once for everybody. The lock is given up meanwhile. False: nothing came in time.

        bare: wait in the read itself, which saves a call; nothing but messages ends it
        """
        self._reading = True
        self._changed.release()
        try:
            came = bare or self._ready(timeout)
            messages = self._receive() if came else []
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        if messages is None:
            self.ended = True
            self.arrivals += 1
            self._poll.unregister(self._link.fileno())
        else:
            for message in messages:
                self._sort(message)
        return came or self._woken

    def _receive(self) -> list[ToWorker] | None:
        try:
            return self._link.receive()
        except BaseException:
            self.torn = True
            raise

    def _ready(self, timeout: float | None) -> bool:
        found = self._poll.poll(None if timeout is None else timeout * 1000)
        readable = False
        for descriptor, _ in found:
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                self._woken = True
            else:
                readable = True
        return readable

    def _sort(self, message: ToWorker) -> None:
        if isinstance(message, Run):
            if message.id in self._early:
                self._early.remove(message.id)  # of an earlier attempt
            self.tasks.append(message)
            self.arrivals += 1
        elif isinstance(message, Define):
            self._define(message)
        elif isinstance(message, Revoke):
            for _ in range(message.count):
                self.tasks.pop()
            self.send([Acknowledge()])
        elif isinstance(message, Room):
            if message.request in self._awaited:
                self._awaited[message.request] = message
            else:
                self.give_back(message)
        elif isinstance(message, Answer):
            if message.number in self._awaited:
                self._awaited[message.number] = message
            else:
                self._unwanted(message.holds)
        elif isinstance(message, Credit):
            if message.id in self._streams:
                self._streams[message.id].allowed += message.count
        elif isinstance(message, Stop):
            stop = self._stops.get(message.id)
            if stop is not None:
                stop()
            else:
                self._early.append(message.id)

    # ---- attempts that can be stopped -----------------------------------------------------------

    def on_stop(self, task: TaskId, stop: Callable[[], object] | None) -> None:
        """Call `stop` when a Stop of the attempt comes, or has come; None: no more. It is called with the lock held: it
        only notes."""
        with self._changed:
            if stop is None:
                self._stops.pop(task, None)
            elif task in self._early:
                self._early.remove(task)
                stop()
            else:
                self._stops[task] = stop

    def flow(self, task: TaskId, ahead: int) -> Stream:
        """As Host.flow."""
        stream = self._streams[task] = Stream(self, task, ahead)
        self.on_stop(task, stream.stop)
        return stream

    def wait_for_credit(self, stream: Stream, index: int) -> None:
        """Until the stream may make item `index`, or was stopped. Raises RuntimeStopped."""
        self._wait(lambda: stream.stopped or index < stream.allowed)

    def close_stream(self, task: TaskId) -> None:
        """Its credits are of no use any more."""
        self.on_stop(task, None)
        del self._streams[task]


class Stream:
    """A stream's credit, as hosting.Flow. `allowed`: how many items it may have made in all."""

    def __init__(self, channel: Channel, task: TaskId, ahead: int) -> None:
        self.allowed = ahead
        self.stopped = False
        self._channel = channel
        self._task = task

    def stop(self) -> None:
        """Nobody wants more."""
        self.stopped = True

    def must_wait(self, index: int) -> bool:
        self._channel.look()
        return index >= self.allowed and not self.stopped

    def may_make(self, index: int) -> bool:
        if self.must_wait(index):
            self._channel.wait_for_credit(self, index)
        return not self.stopped

    def give_up(self) -> None:
        self.stopped = True
        self._channel.wake()

    def close(self) -> None:
        self._channel.close_stream(self._task)
