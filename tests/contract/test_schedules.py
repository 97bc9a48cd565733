"""Schedules on every store, by a clock that the test sets: each occurrence is begun once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dagengine import workflow
from dagengine.errors import BadArguments, BadOption
from dagengine.model import RunRecord, RunState
from dagengine.serving.schedules import (
    Schedule,
    When,
    backfill,
    create_schedule,
    find_schedule,
    fire_due,
    jitter_of,
    pause_schedule,
    plan_backfill,
    remove_schedule,
    trigger,
)
from dagengine.storage import queues, schedules
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.queue_rules import QueueSettings

DAY = 86_400.0
START = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
NOWHERE = Path("/nonexistent")


@workflow
def nightly(year: int, logical_time: datetime) -> str:
    return f"{year} {logical_time}"


@workflow
def plain(x: int = 0) -> int:
    return x


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _create(store: Store, clock: Clock, name: str = "nightly", cron: str = "30 2 * * *", **when: object) -> Schedule:
    return create_schedule(store, name, (nightly, (2013,), {}), When(cron, **when), clock)  # type: ignore[arg-type]


def _runs(store: Store) -> list[RunRecord]:
    return sorted(store.runs(RunFilter(limit=100)), key=lambda run: run.id)


def test_a_run_is_begun_when_it_is_due_and_not_twice(store: Store, clock: Clock) -> None:
    """Also when two servers look, and when one died before it could say that it was begun."""
    schedule = _create(store, clock, tz="Europe/Paris")
    due = datetime(2026, 3, 2, 1, 30, tzinfo=UTC).timestamp()
    assert fire_due(store, NOWHERE, clock) == due
    assert _runs(store) == []
    clock.now = due
    before = find_schedule(store, "nightly")
    assert fire_due(store, NOWHERE, clock) == due + DAY
    (run,) = _runs(store)
    assert run.id == "nightly.20260302T013000Z"
    assert run.state is RunState.PENDING
    assert run.facts["logical_time"] == "2026-03-02T01:30:00+00:00"
    assert queues.entry_of(store, run.id) is not None
    schedules.pause(store, "nightly", False, before.next_at)  # as if the last line had not been reached
    assert fire_due(store, NOWHERE, clock) == due + DAY
    assert [run.id for run in _runs(store)] == [schedule.run_id(datetime.fromtimestamp(due, UTC))]


@pytest.mark.parametrize(("catch_up", "days"), [("none", []), ("latest", [5]), ("all", [2, 3, 4, 5])])
def test_what_was_due_while_nobody_served(store: Store, clock: Clock, catch_up: str, days: list[int]) -> None:
    """None of it is begun, the latest, or all; and the next time is in the future."""
    _create(store, clock, catch_up=catch_up)
    clock.now = START + 4 * DAY
    following = fire_due(store, NOWHERE, clock)
    assert [run.id for run in _runs(store)] == [f"nightly.2026030{day}T023000Z" for day in days]
    assert following == datetime(2026, 3, 6, 2, 30, tzinfo=UTC).timestamp()


def test_a_year_of_minutes_is_missed_at_little_cost(store: Store, clock: Clock) -> None:
    """The latest of half a million is found without the others; `all` begins them a hundred at a time."""
    create_schedule(store, "often", (plain, (), {}), When("* * * * *"), clock)
    clock.now = START + 365 * DAY + 59.0
    fire_due(store, NOWHERE, clock)
    assert len(_runs(store)) == 1
    create_schedule(store, "every", (plain, (), {}), When("* * * * *", catch_up="all"), clock)
    clock.now += 150 * 60
    following = fire_due(store, NOWHERE, clock)
    assert sum(run.id.startswith("every.") for run in _runs(store)) >= 98  # of the hundred that are listed
    assert following is not None
    assert following <= clock.now


def test_a_schedule_is_paused_goes_on_and_is_removed(store: Store, clock: Clock) -> None:
    """What was due meanwhile is not begun; its runs outlive it."""
    _create(store, clock, catch_up="all")
    pause_schedule(store, "nightly", True, clock)
    clock.now += 3 * DAY
    assert fire_due(store, NOWHERE, clock) is None
    pause_schedule(store, "nightly", False, clock)
    assert fire_due(store, NOWHERE, clock) == datetime(2026, 3, 5, 2, 30, tzinfo=UTC).timestamp()
    run = trigger(store, NOWHERE, "nightly", clock)
    assert store.find_run(run).facts["logical_time"] == "2026-03-04T12:00:00+00:00"
    remove_schedule(store, "nightly")
    with pytest.raises(BadOption, match="there is no schedule"):
        find_schedule(store, "nightly")
    assert [run.id for run in _runs(store)] == [run]


def test_jitter_delays_the_run_and_not_its_logical_time(store: Store, clock: Clock) -> None:
    """By the same for everybody, and by less than was said."""
    schedule = _create(store, clock, jitter=600.0)
    clock.now = datetime(2026, 3, 2, 2, 30, tzinfo=UTC).timestamp()
    fire_due(store, NOWHERE, clock)
    entry = queues.entry_of(store, "nightly.20260302T023000Z")
    assert entry is not None
    delay = entry.not_before - clock.now
    assert delay == pytest.approx(jitter_of(schedule, entry.id), abs=0.001)
    assert 0 < delay < 600


def test_a_backfill_begins_what_is_not_there(store: Store, clock: Clock) -> None:
    """From a time on and before another; in reverse, at most so many, again where it failed."""
    schedule = _create(store, clock)
    first, last = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 5, tzinfo=UTC)

    def run_of(day: int) -> str:
        return f"nightly.2026020{day}T023000Z"

    some = plan_backfill(store, schedule, first, last, reverse=True, limit=2)
    assert [one.run for one in some] == [run_of(4), run_of(3)]
    assert _runs(store) == []
    assert backfill(store, NOWHERE, "nightly", some, clock) == [run_of(4), run_of(3)]
    store.request_cancel(run_of(3), 1.0)
    rest = plan_backfill(store, schedule, first, last)
    assert [(one.run, one.state) for one in rest] == [
        (run_of(1), None),
        (run_of(2), None),
        (run_of(3), RunState.CANCELLED),
        (run_of(4), RunState.PENDING),
    ]
    again = plan_backfill(store, schedule, first, last, existing="failed")
    assert [one.run for one in again if one.state is None] == [run_of(1), run_of(2), f"{run_of(3)}.2"]
    backfill(store, NOWHERE, "nightly", again, clock)
    assert len(_runs(store)) == 5
    assert [one.run for one in plan_backfill(store, schedule, first, last, existing="all") if one.state is None] == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "has space"}, "letters, digits"),
        ({"cron": "61 * * * *"}, "minute 61"),
        ({"tz": "Europe/Berlinn"}, "Did you mean Europe/Berlin?"),
        ({"catch_up": "latests"}, "Did you mean latest?"),
        ({"queue": "reprots"}, "there is no queue 'reprots'. Did you mean reports?"),
        ({"jitter": -1.0}, "jitter=-1.0"),
        ({"name": "taken"}, "there is a schedule 'taken' already"),
    ],
)
def test_what_can_not_be_meant_is_one_line(store: Store, clock: Clock, change: dict[str, object], what: str) -> None:
    """It names what was said, and what would do."""
    queues.save_queue(store, "reports", QueueSettings())
    _create(store, clock, "taken", "0 0 * * *")
    with pytest.raises(BadOption) as told:
        _create(store, clock, **change)  # type: ignore[arg-type]
    assert what in str(told.value)
    assert "\n" not in str(told.value)


def test_arguments_of_a_schedule_fit_its_workflow_and_are_small(store: Store, clock: Clock) -> None:
    """Both are looked at when it is made, not when it is due."""
    with pytest.raises(BadArguments):
        create_schedule(store, "s", (nightly, (), {}), When("@daily"), clock)
    with pytest.raises(BadOption, match="Pass where the data is"):
        create_schedule(store, "s", (plain, (b"x" * 100_000,), {}), When("@daily"), clock)
