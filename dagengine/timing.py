"""Where the time of a run went: the critical path, the time that each step waited and ran, a picture of it. From the record.

    called ── waits for its inputs ── ready ── waits: commit of the inputs, a worker ── started ── runs ── ended

`ready` is when the last input had ended, or the step was called. Until `started`, the ends of the inputs are committed and
the step waits for its turn; how long a commit took on average is noted by the run's owner (`run.commits`), and tells the one
from the other. Between two attempts lies the delay of a retry.

A timer, an event, a child run has no attempts: what it took is counted as if it had run for it.

The critical path goes back from the step that ended last: to the input that ended last, or, where the step was called
after that, to the step whose end the body waited for.

The path, totals and picture are pure functions of `Timed` steps. May import nothing of ours but model, views and storage's
interface.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dagengine.model import RunRecord, StepState
from dagengine.storage.interface import Store
from dagengine.views import StepView, steps_view

OUTSIDE = "outside"
"""Where timers, events and child runs are, in pictures."""

MICRO = 1_000_000  # a Chrome trace counts in microseconds


@dataclass(frozen=True, slots=True)
class Timed:
    """A step with its times. `reads`: seqs of its inputs; `called`: of the steps that it called; `by`: that called it."""

    seq: int
    key: str
    task: str
    state: StepState
    created_at: float
    ended_at: float | None
    tries: tuple[tuple[float, float | None, str | None], ...] = ()  # of each attempt: start, end, where
    reads: tuple[int, ...] = ()
    called: tuple[int, ...] = ()
    by: int | None = None

    @property
    def started_at(self) -> float | None:
        return self.tries[0][0] if self.tries else None

    @property
    def ran(self) -> float:
        """Seconds of all attempts that have ended."""
        return sum(end - start for start, end, _ in self.tries if end is not None)

    @property
    def here(self) -> bool:
        """Whether it ended in this run by being run, and was not shared or known."""
        return self.ended_at is not None and bool(self.tries)


@dataclass(frozen=True, slots=True)
class Leg:
    """A step of the critical path. Seconds: `body`: until it was called after the leg before had ended; `waited`: until it
    started; `ran`: in attempts; `retried`: between them."""

    key: str
    task: str
    body: float
    waited: float
    ran: float
    retried: float


@dataclass(frozen=True, slots=True)
class Total:
    """Of one function's steps: how many have run, seconds that they ran and waited in all, and the longest run."""

    task: str
    steps: int
    shared: int
    ran: float
    longest: float
    waited: float


@dataclass(frozen=True, slots=True)
class Profile:
    seconds: float
    path: tuple[Leg, ...]
    totals: tuple[Total, ...]
    commits: Mapping[str, float] = field(default_factory=dict)  # count, mean, longest

    def to_json(self) -> dict[str, Any]:
        def row(one: Leg | Total) -> dict[str, Any]:
            return {name: getattr(one, name) for name in type(one).__slots__}

        return {
            "seconds": self.seconds,
            "critical_path": [row(leg) for leg in self.path],
            "tasks": [row(total) for total in self.totals],
            "commits": dict(self.commits),
        }


def timed_steps(store: Store, run: RunRecord) -> list[Timed]:
    """The run's steps with their times, in the order of calling."""
    views = steps_view(store, run, with_inputs=True)
    seqs = {view.key: view.record.seq for view in views}
    by = {view.record.seq: _caller(view, seqs) for view in views}
    called: dict[int, list[int]] = defaultdict(list)
    for seq, caller in by.items():
        if caller is not None:
            called[caller].append(seq)
    ends = {view.record.seq: view.record.finished_at for view in views}
    timed = [_timed(view, tuple(called[view.record.seq]), by[view.record.seq]) for view in views]
    return [
        replace(one, tries=_in_the_world(one, ends, run.started_at or run.created_at))
        if view.record.kind.is_outside
        else one
        for view, one in zip(views, timed, strict=True)
    ]


def _in_the_world(
    step: Timed, ends: Mapping[int, float | None], since: float
) -> tuple[tuple[float, float | None, str | None], ...]:
    """In the place of attempts, of a timer, an event or a child run: from when nothing was in its way to its end. Of one that
    is shared with the run that this one was forked from, which has ended before `since`, nothing; nor of one cancelled."""
    if step.ended_at is None or step.ended_at < since or step.state is StepState.CANCELLED:
        return ()
    began = max([step.created_at, *(end for end in map(ends.get, step.reads) if end is not None)])
    return ((min(began, step.ended_at), step.ended_at, OUTSIDE),)


def _caller(view: StepView, seqs: Mapping[str, int]) -> int | None:
    above = view.key.rpartition("/")[0]
    if view.record.kind.is_call:
        return None  # below its object's key, but called by the body
    return seqs.get(above)


def _timed(view: StepView, called: tuple[int, ...], by: int | None) -> Timed:
    record = view.record
    tries = tuple(
        (attempt.started_at, attempt.finished_at, f"{attempt.host} worker {attempt.worker}") for attempt in view.tries
    )
    times = (record.created_at, record.finished_at if record.state.ended else None)
    return Timed(record.seq, record.key, record.task, record.state, *times, tries, view.inputs, called, by)


# ---- the critical path and the totals --------------------------------------------------------------


def profile(steps: Sequence[Timed], commits: Mapping[str, float] | None = None) -> Profile:
    """Of the steps that ran in the run; those that it shares took no time."""
    ran = [step for step in steps if step.here]
    if not ran:
        return Profile(0.0, (), tuple(_totals(steps, {})), dict(commits or {}))
    known = {step.seq: step for step in steps}
    ready = {step.seq: _ready(step, known) for step in ran}
    began = min(step.created_at for step in ran)
    seconds = max(step.ended_at or 0.0 for step in ran) - began
    return Profile(seconds, tuple(_Path(ran, known).legs(ready)), tuple(_totals(steps, ready)), dict(commits or {}))


def _ready(step: Timed, known: Mapping[int, Timed]) -> float:
    ends = (known[seq].ended_at for seq in step.reads if seq in known and known[seq].here)
    started = step.started_at if step.started_at is not None else step.created_at
    return min(max([step.created_at, *(end for end in ends if end is not None)]), started)


class _Path:
    """The critical path, back from the step that ended last.

    A step that called others comes twice at the most: where it waits for them, which is no leg, and where it called them.
    """

    def __init__(self, ran: Sequence[Timed], known: Mapping[int, Timed]) -> None:
        self._known = known
        self._by_end = sorted((step.ended_at or 0.0, step.seq) for step in ran)
        self._ends = [end for end, _ in self._by_end]
        self._seen: set[int] = set()

    def legs(self, ready: Mapping[int, float]) -> list[Leg]:
        legs: list[Leg] = []
        at: Timed | None = self._known[self._by_end[-1][1]]
        calling = False
        while at is not None and at.seq not in self._seen:
            self._seen.add(at.seq)
            before, body = self._before(at, calling)
            if not at.called or calling:
                legs.append(_leg(at, body, ready[at.seq]))
            calling = before is not None and before.seq == at.by
            if calling and before is not None:
                self._seen.discard(before.seq)
            at = before
        legs.reverse()
        return legs

    def _before(self, step: Timed, calling: bool) -> tuple[Timed | None, float]:
        """What the step waited for last, and how long after that it was called."""
        if step.by is not None and self._known[step.by].here and not calling:
            return self._known[step.by], 0.0
        after = step.called if step.called and not calling else step.reads
        inputs = [self._known[seq] for seq in after if seq in self._known and seq not in self._seen]
        last = max((one for one in inputs if one.here), key=lambda one: one.ended_at or 0.0, default=None)
        if last is not None and (last.ended_at or 0.0) >= step.created_at:
            return last, 0.0
        for index in range(bisect_right(self._ends, step.created_at) - 1, -1, -1):
            end, seq = self._by_end[index]
            if seq not in self._seen and not self._known[seq].called:
                return self._known[seq], step.created_at - end
        return None, 0.0


def _leg(step: Timed, body: float, ready: float) -> Leg:
    started = step.started_at if step.started_at is not None else step.created_at
    last = max((end for _, end, _ in step.tries if end is not None), default=started)
    return Leg(step.key, step.task, body, max(0.0, started - ready), step.ran, max(0.0, last - started - step.ran))


def _totals(steps: Iterable[Timed], ready: Mapping[int, float]) -> list[Total]:
    by_task: dict[str, list[Timed]] = defaultdict(list)
    for step in steps:
        by_task[step.task].append(step)
    totals = []
    for task, some in by_task.items():
        ran = [step for step in some if step.here]
        waited = sum(max(0.0, (step.started_at or 0.0) - ready[step.seq]) for step in ran)
        shared = sum(step.state is StepState.SUCCEEDED and not step.tries and not step.called for step in some)
        totals.append(
            Total(task, len(ran), shared, sum(step.ran for step in ran), max((s.ran for s in ran), default=0.0), waited)
        )
    return sorted(totals, key=lambda total: -total.ran)


def commits_of(store: Store, run: RunRecord) -> dict[str, float]:
    """What the run's owners have noted of its commits."""
    found = [event.data for event in store.events(run.number) if event.kind == "run.commits"]
    count = sum(data["count"] for data in found)
    if not count:
        return {}
    seconds = sum(data["seconds"] for data in found)
    return {"count": count, "mean": seconds / count, "longest": max(data["longest"] for data in found)}


# ---- pictures ---------------------------------------------------------------------------------------


def gantt(steps: Sequence[Timed], width: int = 60, rows: int = 40) -> list[tuple[str, str, float]]:
    """A line for each step that ran: its key, `·` while it waited and `█` while it ran, the seconds that it ran. If there
    are more steps than `rows`, a line for each function: `█` where more than half of the most ran at once, else `▄`."""
    ran = [step for step in steps if step.here]
    if not ran or width < 1:
        return []
    began = min(step.created_at for step in ran)
    span = max(max(step.ended_at or 0.0 for step in ran) - began, 1e-9)

    def column(at: float) -> int:
        return min(width - 1, max(0, int((at - began) / span * width)))

    if len(ran) > rows:
        return _by_task(ran, column, width)
    lines = []
    known = {step.seq: step for step in steps}
    for step in ran:
        cells = [" "] * width
        if step.started_at is not None:
            for at in range(column(_ready(step, known)), column(step.started_at)):
                cells[at] = "·"
        for start, end, _ in step.tries:
            for at in range(column(start), column(end if end is not None else began + span) + 1):
                cells[at] = "█"
        lines.append((step.key, "".join(cells), step.ran))
    return lines


def _by_task(ran: Sequence[Timed], column: Any, width: int) -> list[tuple[str, str, float]]:
    counts: dict[str, list[int]] = {}
    seconds: dict[str, float] = defaultdict(float)
    for step in ran:
        row = counts.setdefault(step.task, [0] * width)
        seconds[step.task] += step.ran
        for start, end, _ in step.tries:
            for at in range(column(start), column(end if end is not None else start) + 1):
                row[at] += 1
    lines = []
    for task, row in counts.items():
        most = max(row)
        cells = "".join(" " if not n else "█" if 2 * n > most else "▄" for n in row)
        lines.append((task, cells, seconds[task]))
    return lines


def chrome_trace(steps: Sequence[Timed]) -> dict[str, Any]:
    """For chrome://tracing and Perfetto: a row for each worker, a slice for each attempt."""
    rows: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for step in steps:
        for number, (start, end, where) in enumerate(step.tries, 1):
            row = rows.setdefault(where or "?", len(rows))
            events.append(
                {
                    "name": step.task,
                    "cat": "step",
                    "ph": "X",
                    "ts": start * MICRO,
                    "dur": max(0.0, (end if end is not None else start) - start) * MICRO,
                    "pid": 0,
                    "tid": row,
                    "args": {"key": step.key, "seq": step.seq, "attempt": number, "state": str(step.state)},
                }
            )
    names = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": row, "args": {"name": name}} for name, row in rows.items()
    ]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}
