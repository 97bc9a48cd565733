"""Schedules: runs that begin by the clock. Functions take an open store.

An occurrence is named by the schedule and its *logical time*, the instant at which it is due; so is its run, and therefore it
is begun once, however many servers try. The order is: the run (with its row in a queue), then the schedule's next time. A
server that dies in between leaves an occurrence that is begun again, finds its run, and changes nothing.

Jitter delays the run, not its logical time, by the same for everybody: it is computed from the run's name.

What was due while nobody served, or more than `LATE_SECONDS` ago for another reason, is missed; `catch_up` says which of these
are begun after all: "none", the "latest", or "all". While a schedule is paused nothing is missed.

May import everything of the workflow layer; the engine only when a schedule is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.errors import BadOption, DefinitionError, RunExists, RunNotFound
from dagengine.functions import Reference
from dagengine.identity import new_id
from dagengine.model import NewRun, RunState
from dagengine.serving.cron import Cron, after, occurrences, parse, zone
from dagengine.serving.logical import PARAMETER, takes_logical_time
from dagengine.serving.submission import Submission, place
from dagengine.storage import schedules as rows
from dagengine.storage.interface import Store
from dagengine.storage.schedules import ScheduleRow
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from dagengine.workflows import Workflow

CATCH_UP = ("none", "latest", "all")
EXISTING = ("none", "failed", "all")

LATE_SECONDS = 60.0
"""An occurrence that is begun within so long of its time is on time."""

CAUGHT_UP_AT_ONCE = 100
"""Missed occurrences that are begun before the server looks after something else."""

BACKFILL_MOST = 10_000

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is begun when. `jitter`: seconds; `facts`: of its runs; `takes_time`: the workflow has a parameter logical_time"""

    name: str
    workflow: str
    entry: dict[str, Any]
    cron: str
    tz: str
    jitter: float
    catch_up: str
    queue: str
    priority: int
    facts: dict[str, Any]
    takes_time: bool
    created_at: float

    @classmethod
    def of(cls, row: ScheduleRow) -> Schedule:
        return cls(**{field.name: row.settings[field.name] for field in fields(cls)})

    @property
    def line(self) -> Cron:
        return parse(self.cron)

    @property
    def zone(self) -> ZoneInfo:
        return zone(self.tz)

    def run_id(self, logical: datetime) -> str:
        return f"{self.name}.{logical.astimezone(UTC):%Y%m%dT%H%M%SZ}"

    def next_after(self, moment: float) -> float | None:
        found = after(self.line, self.zone, datetime.fromtimestamp(moment, UTC))
        return None if found is None else found.timestamp()


@dataclass(frozen=True, slots=True)
class When:
    """When and how a schedule's runs begin. `jitter`: seconds; tz: a zone as Europe/Paris"""

    cron: str
    tz: str = "UTC"
    jitter: float = 0.0
    catch_up: str = "latest"
    queue: str = "default"
    priority: int = 0

    def __post_init__(self) -> None:
        parse(self.cron)
        zone(self.tz)
        if self.catch_up not in CATCH_UP:
            raise BadOption(f"catch_up={self.catch_up!r} is not known.{did_you_mean(str(self.catch_up), CATCH_UP)}")
        if not 0 <= self.jitter <= 7 * 86_400:
            raise BadOption(f"jitter={self.jitter!r} has to be at least 0 seconds, and at most a week.")
        Submission(queue=self.queue, priority=self.priority)


def create_schedule(
    store: Store,
    name: str,
    call: tuple[Workflow[..., Any], tuple[Any, ...], dict[str, Any]],
    when: When,
    clock: Clock = time.time,
) -> Schedule:
    """Have runs of the workflow with these arguments begun. Raises BadOption, BadArguments, also if the name is taken."""
    from dagengine.calls import encode_call
    from dagengine.recording import entry_of, facts_of
    from dagengine.serving.queues import known_queue

    if not 1 <= len(name) <= 80 or not set(name) <= NAME_CHARACTERS or not name[0].isalnum():
        raise BadOption(f"schedule name {name!r}: use 1 to 80 letters, digits, dashes, underscores.")
    known_queue(store, when.queue)
    workflow, args, kwargs = call
    now = clock()
    takes_time = takes_logical_time(workflow) and PARAMETER not in kwargs
    workflow.check_arguments(args, {**kwargs, PARAMETER: now} if takes_time else kwargs)
    encoded, _ = encode_call(args, kwargs, f"the call {workflow.name}", _refuse_large)
    facts = {**facts_of(workflow), "schedule": name}
    entry = entry_of(workflow).to_json()
    schedule = Schedule(name, workflow.name, entry, **asdict(when), facts=facts, takes_time=takes_time, created_at=now)
    settings = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
    if not rows.add(store, ScheduleRow(name, settings, encoded, False, schedule.next_after(now))):
        raise BadOption(
            f"there is a schedule {name!r} already. Take another name, or remove it: dagengine schedule rm {name}"
        )
    return schedule


def _refuse_large(encoded: Any) -> None:
    raise BadOption(
        f"an argument of a schedule is of {encoded.size:,} bytes. Pass where the data is, and let a task read it."
    )


def find_schedule(store: Store, name: str) -> ScheduleRow:
    """Raises BadOption, with the nearest there is."""
    row = rows.one_row(store, name)
    if row is None:
        known = [row.name for row in rows.all_rows(store)]
        raise BadOption(
            f"there is no schedule {name!r}.{did_you_mean(name, known)} `dagengine schedule ls` lists them."
        )
    return row


def pause_schedule(store: Store, name: str, paused: bool = True, clock: Clock = time.time) -> None:
    """Begin nothing any more, or again: from then on, without what was due meanwhile."""
    row = find_schedule(store, name)
    rows.pause(store, name, paused, Schedule.of(row).next_after(clock()))


def remove_schedule(store: Store, name: str) -> None:
    """Its runs stay."""
    find_schedule(store, name)
    rows.remove(store, name)


def trigger(store: Store, control: Path, name: str, clock: Clock = time.time) -> str:
    """Begin a run of it now, beside those that are due; returns its id."""
    row = find_schedule(store, name)
    schedule = Schedule.of(row)
    logical = datetime.fromtimestamp(int(clock()), UTC)
    return _begin(store, control, row, logical, f"{schedule.name}.manual-{new_id()[:8]}", clock=clock)


# ---- by the clock ---------------------------------------------------------------------------


def fire_due(store: Store, control: Path, clock: Clock = time.time) -> float | None:
    """Begin what is due; returns when the next is, of all schedules."""
    now = clock()
    for row in rows.due_rows(store, now):
        assert row.next_at is not None
        schedule = Schedule.of(row)
        last = row.next_at
        for logical in due_times(schedule, row.next_at, now):
            _begin(store, control, row, logical, schedule.run_id(logical), clock=clock)
            last = logical.timestamp()
        if schedule.catch_up != "all":
            last = now  # the others were missed
        rows.advance(store, row.name, row.next_at, schedule.next_after(last))
    return rows.next_at(store)


def due_times(schedule: Schedule, first: float, now: float) -> list[datetime]:
    """Which of the occurrences from `first` to `now` are to be begun now, the oldest first. Pure."""
    if schedule.catch_up == "all":
        return list(itertools.islice(_between(schedule, first, now), CAUGHT_UP_AT_ONCE))
    if schedule.catch_up == "none":
        return list(_between(schedule, max(first, now - LATE_SECONDS), now))[-1:]
    span = LATE_SECONDS  # looked for from the end: a line for each minute has half a million of them in a year
    while True:
        found = list(_between(schedule, max(first, now - span), now))
        if found or now - span <= first:
            return found[-1:]
        span *= 16


def _between(schedule: Schedule, first: float, last: float) -> Iterator[datetime]:
    """Both ends count."""
    begin, end = datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)
    return occurrences(schedule.line, schedule.zone, begin, end + timedelta(microseconds=1))


def jitter_of(schedule: Schedule, run_id: str) -> float:
    """Seconds by which the run is delayed: the same for everybody who asks. Pure."""
    part = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8]) / 2**64
    return schedule.jitter * part


def _begin(store: Store, control: Path, row: ScheduleRow, logical: datetime, run_id: str, *, clock: Clock) -> str:
    """Record and queue the run, if nobody has."""
    schedule = Schedule.of(row)

    def record(run_id: str, queued: Callable[[Any], None]) -> None:
        facts = {**schedule.facts, **_code(store, schedule), PARAMETER: logical.astimezone(UTC).isoformat()}
        new = NewRun(run_id, schedule.workflow, schedule.entry, row.call, (), clock(), facts)
        store.create_run(new, None, also=queued)

    at = logical.timestamp() + jitter_of(schedule, run_id)
    with contextlib.suppress(RunExists):  # by another server, or before a crash
        place(store, control, Submission(schedule.queue, schedule.priority, at=at, run_id=run_id), record, clock)
    return run_id


def _code(store: Store, schedule: Schedule) -> dict[str, str]:
    """The workflow's code as it is today. Where it can't be packed the run is begun all the same, and says why it fails."""
    from dagengine.code.packing import pack_reference

    try:
        digest = pack_reference(store, Reference.from_json(schedule.entry), str(schedule.facts.get("cwd", "")))
    except DefinitionError:
        return {}
    return {} if digest is None else {"code": digest}


# ---- back in time -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backfill:
    """One occurrence of a backfill. `run`: the run to begin, or that there is; `state`: of that, None if it is to be begun"""

    logical: datetime
    run: str
    state: RunState | None = None


def plan_backfill(
    store: Store,
    schedule: Schedule,
    first: datetime,
    last: datetime,
    *,
    existing: str = "none",
    reverse: bool = False,
    limit: int | None = None,
) -> list[Backfill]:
    """The occurrences from `first` on and before `last`, with what would be done. `existing`: which of those that have a
    run are run again: "none", those that "failed" (or were cancelled), or "all". `limit`: begin at most so many."""
    if existing not in EXISTING:
        raise BadOption(f"existing={existing!r} is not known.{did_you_mean(str(existing), EXISTING)}")
    if last <= first:
        raise BadOption("a backfill has to end after it begins. Give --from before --to.")
    if limit is not None and limit < 1:
        raise BadOption(f"limit={limit!r} has to be at least 1.")
    times = list(itertools.islice(occurrences(schedule.line, schedule.zone, first, last), BACKFILL_MOST + 1))
    if len(times) > BACKFILL_MOST:
        raise BadOption(f"from {first} to {last} there are more than {BACKFILL_MOST:,} runs. Take it in parts.")
    planned: list[Backfill] = []
    for logical in reversed(times) if reverse else times:
        if limit is not None and sum(one.state is None for one in planned) >= limit:
            break
        planned.append(_planned(store, schedule, logical, existing))
    return planned


def _planned(store: Store, schedule: Schedule, logical: datetime, existing: str) -> Backfill:
    """The newest run of the occurrence is the one with the greatest number behind its name."""
    base = schedule.run_id(logical)
    run, state, number = base, _state(store, base), 1
    while state is not None:
        following = f"{base}.{number + 1}"
        after_it = _state(store, following)
        if after_it is None:
            again = existing == "all" and state.ended
            again = again or (existing == "failed" and state in (RunState.FAILED, RunState.CANCELLED))
            return Backfill(logical, following) if again else Backfill(logical, run, state)
        run, state, number = following, after_it, number + 1
    return Backfill(logical, base)


def _state(store: Store, run_id: str) -> RunState | None:
    try:
        found = store.find_run(run_id)
    except RunNotFound:
        return None
    return found.state if found.id == run_id else None


def backfill(store: Store, control: Path, name: str, planned: list[Backfill], clock: Clock = time.time) -> list[str]:
    """Begin what was planned; returns the ids of the runs."""
    row = find_schedule(store, name)
    return [_begin(store, control, row, one.logical, one.run, clock=clock) for one in planned if one.state is None]
