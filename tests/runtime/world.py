"""A world for the dispatcher to run in: workers with permits, a clock that tests move, and no processes.

It does what the shell does, and checks the invariants after each event. Messages to and from workers take as long as
the test likes: nothing moves until it is told to.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_invariants import check
from dagengine.runtime.dispatch_model import (
    Action,
    ActorDown,
    AllGone,
    Begun,
    Cancelled,
    Closing,
    Ended,
    Event,
    Finished,
    GiveUp,
    Leased,
    Retire,
    Revoke,
    RevokeAcknowledged,
    Revoked,
    Send,
    SetTimer,
    Signal,
    StartWorker,
    Task,
    TaskState,
    Tick,
    WorkerDown,
    WorkerUp,
)
from dagengine.runtime.protocol import TaskId


@dataclass
class FakeWorker:
    """`arriving`: sent to it, not yet read; `tasks`: read; `running`: has its permit; `results`: sent, not yet read."""

    number: int
    up: bool = False
    permits: int = 0
    arriving: deque[Task | int] = field(default_factory=deque)
    tasks: deque[Task] = field(default_factory=deque)
    running: Task | None = None
    results: deque[Task | None] = field(default_factory=deque)  # None: an acknowledgement
    signal: str = ""
    codes: set[str] = field(default_factory=set)
    retired: bool = False

    def read(self) -> None:
        """Take in all that was sent."""
        while self.arriving:
            message = self.arriving.popleft()
            if isinstance(message, int):
                for _ in range(message):
                    self.tasks.pop()
                self.results.append(None)
            else:
                self.tasks.append(message)

    def begin(self) -> None:
        """Take a permit and begin the next task, as the real worker's loop does."""
        if self.running is None and self.tasks and self.permits:
            self.permits -= 1
            self.running = self.tasks.popleft()

    def finish(self) -> None:
        if self.running is not None:
            self.results.append(self.running)
            self.running = None


class World:
    def __init__(self, workers: int) -> None:
        self.core = Dispatcher(workers)
        self.now = 0.0
        self.workers: dict[int, FakeWorker] = {}
        self.timer: float | None = None
        self.seconds: dict[int, float] = {}
        self.live: dict[TaskId, Task] = {}
        self.ran: dict[TaskId, int] = {}
        self.ended: dict[TaskId, Ended] = {}
        self.begun: list[TaskId] = []
        self.actors_down: list[tuple[TaskId, bool]] = []
        self.gave_up = False
        self.gone = False
        self._numbers = 0
        for action in self.core.start():
            self._carry_out(action)

    # ---- the shell's part ---------------------------------------------------------------------

    def happen(self, event: Event) -> list[Action]:
        events, told = deque([event]), []
        while events:
            event = events.popleft()
            actions = self.core.apply(event, self.now)
            for action in actions:
                answer = self._carry_out(action)
                if answer is not None:
                    events.append(answer)
            told += actions
            # While an answer is due the core waits for it; its invariants hold between turns of the shell.
            if not events:
                check(self.core)
        return told

    def _carry_out(self, action: Action) -> Event | None:
        match action:
            case StartWorker(number):
                assert number not in self.workers
                self.workers[number] = FakeWorker(number)
            case Send(number, tasks):
                worker = self.workers[number]
                assert worker.up
                assert not worker.retired
                worker.codes |= {task.code for task in tasks}
                assert len(worker.codes) == 1, "a process was given tasks of two codes"
                worker.permits += len(tasks)
                worker.arriving.extend(tasks)
            case Revoke(number, count):
                worker = self.workers[number]
                taken = min(count, worker.permits)
                worker.permits -= taken
                if taken:
                    worker.arriving.append(taken)
                return Revoked(number, taken)
            case Signal(number, hard):
                self.workers[number].signal = "KILL" if hard else "TERM"
            case Retire(number):
                self.workers[number].retired = True
            case SetTimer(at):
                self.timer = at
            case Begun(task):
                self.begun.append(task.id)
            case Ended(task, _):
                assert task.id not in self.ended, "an attempt ended twice"
                del self.live[task.id]
                self.ended[task.id] = action
            case ActorDown(made, ours):
                self.actors_down.append((made.id, ours))
            case GiveUp():
                self.gave_up = True
            case AllGone():
                assert not self.workers
                assert not self.live
                self.gone = True
        return None

    # ---- what tests do ------------------------------------------------------------------------

    def submit(self, *tasks: Task) -> list[Action]:
        self.live.update((task.id, task) for task in tasks)
        return self.happen(Leased(tasks))

    def tasks(self, count: int, function: int = 0, **fields: object) -> list[Task]:
        made = []
        for _ in range(count):
            self._numbers += 1
            made.append(Task((0, self._numbers, 1), function, **fields))  # type: ignore[arg-type]
        return made

    def up(self, *numbers: int) -> None:
        for number in numbers:
            self.workers[number].up = True
            self.happen(WorkerUp(number))

    def deliver(self, number: int) -> list[Action]:
        """What the worker has sent arrives here."""
        worker = self.workers[number]
        told: list[Action] = []
        while worker.results:
            results = []
            while worker.results and (task := worker.results[0]) is not None:
                worker.results.popleft()
                results.append((task.id, self.seconds.get(task.function, 0.0001)))
            if results:
                told += self.happen(Finished(number, results))
            if worker.results:
                worker.results.popleft()
                told += self.happen(RevokeAcknowledged(number))
        return told

    def step(self, number: int) -> None:
        """The worker reads, ends what it runs, and begins the next."""
        worker = self.workers[number]
        worker.read()
        worker.finish()
        worker.begin()
        if worker.running is not None:
            self.ran[worker.running.id] = self.ran.get(worker.running.id, 0) + 1

    def die(self, number: int) -> list[Action]:
        """The worker's process ends. Its results are read first."""
        told = self.deliver(number)
        worker = self.workers.pop(number)
        running = worker.running
        told += self.happen(WorkerDown(number, worker.permits))
        if running is not None and running.id in self.ended:
            assert self.ended[running.id].started
        return told

    def tick(self) -> list[Action]:
        """The clock moves on to the timer."""
        assert self.timer is not None
        self.now, self.timer = max(self.now, self.timer), None
        return self.happen(Tick())

    def finish_all(self) -> None:
        """Let everything run to its end."""
        while self.live:
            before = len(self.ended)
            for number in list(self.workers):
                worker = self.workers[number]
                if not worker.up:
                    self.up(number)
                if worker.signal:
                    self.die(number)
                    continue
                self.step(number)
                self.deliver(number)
            if len(self.ended) == before and not any(worker.running for worker in self.workers.values()):
                assert self.timer is not None or any(
                    worker.results or worker.arriving or not worker.up for worker in self.workers.values()
                ), f"nothing moves, and {len(self.live)} tasks are left"
                if self.timer is not None:
                    self.tick()

    def close(self, force: bool) -> None:
        """Close, and let what closing waits for happen."""
        self.happen(Closing(force))
        self.finish_all()
        for number in list(self.workers):
            worker = self.workers[number]
            assert worker.retired or worker.signal, "a worker was not told to end"
            self.die(number)
        assert self.gone

    def cancel(self, *tasks: Task, force: bool = False) -> list[Action]:
        return self.happen(Cancelled([task.id for task in tasks], force))

    def state(self, task: Task) -> TaskState:
        """Asked through a method, because a type checker believes that an attribute stays as it was."""
        return task.state
