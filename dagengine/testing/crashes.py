"""A workflow, killed at each write to its store and resumed: does it come to the same end?

    plain run ─▶ what it comes to, how many writes it takes
    for each write n, before and after it:  a fresh store ─▶ run, dies at n ─▶ resume ─▶ held against the plain run

Held against it are the result (or the failure), and that what was recorded when the process died is as it was, and did
not run again. What began again though it had begun before is no mistake (attempts are at least once), but it is reported:
for a step with effects it is what `once`, `transactional` and `at_most_once` are there for.

The process dies in this process (`mortal`), so a case takes milliseconds. A real `kill -9` takes no other way through the
engine: its record is the same prefix of writes.

May import everything but the command line.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dagengine.calls import canonical_digest
from dagengine.continuing import last_of
from dagengine.engine import BODY_JOIN_SECONDS, Engine
from dagengine.errors import RunNotFound
from dagengine.model import RunRecord, RunState, StepKind, StepRecord, StepState
from dagengine.reading import Reader
from dagengine.storage import open_artifacts, open_store
from dagengine.storage.interface import RunFilter, Store
from dagengine.testing.mortal import Fate, MortalRuntime, MortalStore, ProcessDied, passing_for_dead

if TYPE_CHECKING:
    from dagengine.clocks import Clock
    from dagengine.runtime.protocol import Runtime
    from dagengine.tasks import Task
    from dagengine.workflows import Workflow

RUN_ID = "crash-test"
"""The same in all cases, so that what a workflow makes of its run's id is the same, too. Each has a store of its own."""

MEMORY = "/dev/shm"
"""Where the cases' files lie, if it is there: the process dies, not the machine, so that the disk adds only time."""

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH)

Steps = dict[tuple[str, str], StepRecord]
"""By run id and key."""

World = Callable[[Engine, str], object]
"""Called with the engine and the run's id once the run is begun, and again in each life of the process: it gives what
the run waits for from outside, as somebody would who does not know whether it has arrived."""


class CrashFailure(AssertionError):
    """A crash made a difference. The message says after which write, and what differs."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One case: the process died at its `write`-th write, `after` it or before it, and was begun anew."""

    write: int
    after: bool
    what: str  # was to be written
    again: tuple[str, ...]  # keys of steps that began again though they had begun before

    def __str__(self) -> str:
        return f"a crash {'after' if self.after else 'before'} write {self.write} ({self.what})"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """All cases came to the same end as the plain run. `again`: how often a step began again, over all cases."""

    workflow: str
    writes: int  # of the plain run
    state: RunState
    result: Any  # of the plain run; of one that failed, "type: message"
    crashes: tuple[Crash, ...]
    again: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"{self.workflow} {self.state}, with {len(self.crashes)} crashes as without (at {self.writes} writes)."
        ]
        if self.state is RunState.FAILED:
            lines.append(f"It failed with {self.result}")
        if self.again:
            lines.append("Steps that began again, as the process died before their end was recorded:")
            lines += [f"  {key}: after {count} of the crashes" for key, count in self.again.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _End:
    """What a run came to, in a form that can be compared."""

    state: RunState
    digest: str
    shown: str
    value: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is the same in all cases: a run, and what is around it."""

    workflow: Workflow[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    store: str | Callable[[], Store]
    runtime: Callable[[], Runtime] | None
    world: World | None
    before: Callable[[], object] | None
    after: Callable[[], object] | None
    timeout: float
    clock: Callable[[], Clock] | None
    options: Mapping[str, Any]

    @contextmanager
    def lives(self) -> Iterator[_Lives]:
        """One case, in a folder of its own."""
        memory = MEMORY if Path(MEMORY).is_dir() else None
        with tempfile.TemporaryDirectory(prefix="dagengine-", dir=memory) as folder:
            opened = self.store() if callable(self.store) else _open(self.store, folder)
            try:
                if self.before is not None:
                    self.before()
                yield _Lives(self, opened, Path(folder))
                if self.after is not None:
                    self.after()
            finally:
                opened.close()

    def make_runtime(self) -> Runtime:
        from dagengine.runtime.inline import InlineRuntime

        return InlineRuntime() if self.runtime is None else self.runtime()


@dataclass(frozen=True, slots=True)
class _Lives:
    """The processes of one case, one after the other, on one store."""

    case: _Case
    store: Store
    folder: Path

    def live(self, fate: Fate) -> None:
        """Begin the run, or go on with it, until it ends or the process dies."""
        engine = Engine(
            cast(Store, MortalStore(self.store, fate)),
            home=self.folder,
            artifacts=self.folder / "artifacts",
            runtime=cast("Runtime", MortalRuntime(self.case.make_runtime(), fate)),
            clock=None if self.case.clock is None else self.case.clock(),
            **self.case.options,
        )
        engine.process = passing_for_dead(engine.process)
        fate.died = lambda: _end_all(engine)
        if fate.dead:
            fate.died()
        others = set(threading.enumerate())
        with engine:
            try:
                self._work(engine)
            except (Exception, ProcessDied) as error:
                if not fate.doomed or isinstance(error, CrashFailure):
                    raise  # else it is how the death looks from here
            finally:
                if fate.doomed:
                    fate.gone.wait(self.case.timeout)
                    _end_all(engine)
                    engine.close(force=True)
                    _await_bodies(others)

    def _work(self, engine: Engine) -> None:
        record = self.find()
        if record is None:
            run = engine.begin(self.case.workflow, tuple(self.case.args), dict(self.case.kwargs), RUN_ID)
        elif record.state in ENDED:
            return
        else:
            run = engine.resume(RUN_ID)
        if self.case.world is not None:
            self.case.world(engine, RUN_ID)
        if not run.wait(self.case.timeout):
            raise CrashFailure(f"the run did not end within {self.case.timeout:g} s; its state is {run.state}")
        if run.error is not None:
            raise run.error

    def find(self) -> RunRecord | None:
        """The run; of one that was continued, the last."""
        try:
            return last_of(self.store, self.store.find_run(RUN_ID))
        except RunNotFound:
            return None

    def end(self) -> _End:
        record = self.find()
        assert record is not None
        if record.state is not RunState.SUCCEEDED:
            failure = record.failure
            said = "" if failure is None else f"{failure.type}: {failure.message}"
            return _End(record.state, said, f"it {record.state}{said and ' with '}{said}", said)
        assert record.result_call is not None
        artifacts = open_artifacts(str(self.folder / "artifacts"))
        try:
            reader = Reader(self.store, artifacts, record.number)
            (value,), _ = reader.call(record.result_call, record.result_inputs)
        finally:
            artifacts.close()
        text = repr(value)
        text = text if len(text) < 200 else f"{text[:200]}…"
        return _End(record.state, canonical_digest(value), f"it returned {text}", value)

    def steps(self) -> Steps:
        """By run id and key: the steps of all runs of the store."""
        self.store.side(_nothing)  # what was handed over by the process that died is written by now
        return {
            (run.id, step.key): step
            for run in self.store.runs(RunFilter(limit=100_000))
            for step in self.store.steps(run.number)
        }


def _nothing(connection: Any) -> None: ...


def _end_all(engine: Engine) -> None:
    """Have the engine let go of its runs as they are."""
    for driver in list(engine._by_id.values()):
        engine.tell(driver, ProcessDied("the process is dead"))


def _await_bodies(others: set[threading.Thread]) -> None:
    """The bodies of a process that is dead have ended before the next one begins, as far as they end at all."""
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("body-"):
            thread.join(BODY_JOIN_SECONDS)


def crash_everywhere(
    workflow: Workflow[..., Any],
    /,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    store: str | Callable[[], Store] = "memory:",
    runtime: Callable[[], Runtime] | None = None,
    world: World | None = None,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
    once: Iterable[Task[..., Any] | str] = (),
    moments: Sequence[str] = ("before", "after"),
    limit: int = 1_000,
    timeout: float = 60.0,
    clock: Callable[[], Clock] | None = None,
    **options: Any,
) -> CrashReport:
    """Run the workflow, then kill it before and after each write to its store and resume it. Raises CrashFailure where
    that makes a difference.

    store: "memory:", "sqlite:" (a fresh file for each case), or a function that opens an empty store
    runtime: makes what runs the tasks; None: one after the other in this process
    world: gives from outside what the run waits for (`World`)
    before, after: called around each case, the plain one included: to begin with an empty outside, and to look at it
    once: tasks, or names of tasks, that may not begin again, whatever crashes
    moments: "before" and "after" the write, or one of them
    limit: of writes at which the process is killed; of more of them, as many are taken evenly
    timeout: seconds for each life of the process
    clock: gives the clock of each of them; for a case of its own time, make a `VirtualClock` in `before`
    options: of the `Engine`
    """
    forbidden = {task if isinstance(task, str) else task.name for task in once}
    case = _Case(workflow, args, kwargs or {}, store, runtime, world, before, after, timeout, clock, options)
    fate = Fate()
    with case.lives() as lives:
        lives.live(fate)
        plain = lives.end()
    crashes: list[Crash] = []
    for number in _spread(fate.writes, limit):
        reached = 0
        for moment in moments:
            with case.lives() as lives:
                crash = _crash(lives, number, moment == "after", plain, forbidden)
            if crash is not None:
                crashes.append(crash)
                reached += 1
        if number > fate.writes and not reached:
            break
    again: dict[str, int] = {}
    for crash in crashes:
        for key in crash.again:
            again[key] = again.get(key, 0) + 1
    return CrashReport(workflow.name, fate.writes, plain.state, plain.value, tuple(crashes), again)


def crash_at(
    deaths: Sequence[tuple[int, bool]],
    workflow: Workflow[..., Any],
    /,
    *args: Any,
    store: str | Callable[[], Store] = "memory:",
    timeout: float = 60.0,
    clock: Callable[[], Clock] | None = None,
    **options: Any,
) -> tuple[RunState, Any]:
    """Run the workflow in a process that dies at its n-th write, in one that goes on with it and dies in turn, and so on:
    `deaths` has (n, after it or before). What the run comes to in the last one: its state, and its result or failure."""
    with _Case(workflow, args, {}, store, None, None, None, None, timeout, clock, options).lives() as lives:
        recorded: Steps = {}
        for number, after in (*deaths, (None, False)):
            fate = Fate(number, after)
            lives.live(fate)
            steps = lives.steps()
            _kept(recorded, steps, fate)
            recorded = _succeeded(steps)
        end = lives.end()
        return end.state, end.value


def _open(url: str, folder: str) -> Store:
    return open_store(f"{folder}/store.db" if url == "sqlite:" else url)


def _spread(count: int, limit: int) -> Iterable[int]:
    """At which writes to die; of few, at all: also those that other runs have, whose writes come apart otherwise."""
    if count < limit:
        return range(1, limit + 1)
    return sorted({1 + index * count // limit for index in range(limit)})


def _crash(lives: _Lives, number: int, after: bool, plain: _End, once: set[str]) -> Crash | None:
    """One case; None if the run ended before that write (how writes are put together depends on the time)."""
    first, second = Fate(number, after), Fate()
    try:
        lives.live(first)
        if not first.doomed:
            _same(lives.end(), plain)
            return None
        recorded = _succeeded(lives.steps())
        lives.live(second)
        _same(lives.end(), plain)
        _kept(recorded, lives.steps(), second)
        again = sorted(_ran(first) & _ran(second))
        for _, key, task in again:
            if task in once:
                raise CrashFailure(f"step {key} ran twice, and {task} may not")
    except Exception as error:
        where = Crash(number, after, first.fatal, ()) if first.doomed else "no crash"
        raise CrashFailure(f"after {where}: {error if isinstance(error, CrashFailure) else repr(error)}") from error
    return Crash(number, after, first.fatal, tuple(dict.fromkeys(key for _, key, _ in again)))


def _same(end: _End, plain: _End) -> None:
    if end != plain:
        raise CrashFailure(f"{end.shown}; without a crash {plain.shown}")


def _succeeded(steps: Steps) -> Steps:
    return {at: step for at, step in steps.items() if step.state is StepState.SUCCEEDED}


def _kept(recorded: Steps, now: Steps, fate: Fate) -> None:
    """What had succeeded when the process died is as it was, and did not run again."""
    for at, step in recorded.items():
        is_now = now.get(at)
        if is_now is not None and not step.value_digest:  # a value that was not recorded may have been since
            is_now = replace(is_now, value_digest=step.value_digest, value_size=step.value_size)
        if is_now != step:
            raise CrashFailure(f"step {at[1]} was recorded as {step}, and is now {is_now}")
    for run_id, key, _ in _ran(fate):
        known = recorded.get((run_id, key))
        if known is not None and known.value_digest and known.kind is not StepKind.MAP:
            raise CrashFailure(f"step {key} ran again though its end was recorded")


def _ran(fate: Fate) -> set[tuple[str, str, str]]:
    """(run id, key, task) of each step that has begun."""
    return {(ran.run_id, ran.key, ran.task) for ran in fate.ran.values()}
