"""`submit`, `queue`, `schedule`, `backfill` and `serve` as they are typed; what runs is tested in tests/serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagengine.model import RunState
from dagengine.storage import open_store
from tests.cli.conftest import Cli

FLOW = """
from datetime import datetime
from dagengine import workflow


@workflow
def served(year: int, logical_time: datetime | None = None) -> int:
    return year
"""


@pytest.fixture(scope="module")
def flow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests: its module is loaded once."""
    file = tmp_path_factory.mktemp("served") / "served_by_cli_flow.py"
    file.write_text(FLOW)
    return file


@pytest.fixture
def flow(home: Path, flow_file: Path) -> str:
    return f"{flow_file}:served"


def test_a_submitted_run_is_listed_with_its_queue_and_place(cli: Cli, flow: str, home: Path) -> None:
    """`ls` and `queue show` say where it waits; `cancel` takes it out."""
    assert cli("queue", "set", "reports", "--per-key", "1", "--rate", "10/min").status == 0
    first = cli("submit", flow, "year=1", "--queue", "reports", "--key", "a")
    assert first.status == 0
    assert "it waits in queue reports" in first.err
    second = cli("submit", flow, "year=2", "--queue", "reports", "--in", "2d", "--json").json
    listed = cli("ls").out
    assert "pending in reports, 0 before it" in listed
    assert "pending in reports, in " in listed
    assert [run["queued"]["before"] for run in cli("ls", "--json").json] == [1, 0]
    shown = cli("queue", "show", "reports").out
    assert "1 per key, 10 in 1" in shown
    assert first.out.strip()[:8] in shown
    assert "queue     waits in reports, 0 before it" in cli("show", first.out.strip()).out
    assert cli("cancel", second["id"]).status == 0
    (queue,) = [queue for queue in cli("queue", "ls", "--json").json if queue["name"] == "reports"]
    assert (queue["waiting"], queue["started"], queue["rate"]) == (1, 0, [10, 60.0])
    assert cli("queue", "pause", "reports").out == "queue reports is paused\n"
    assert "paused" in cli("queue", "ls").out
    assert cli("queue", "resume", "reports").status == 0
    assert cli("queue", "purge", "reports").out == "1 run cancelled\n"
    store = open_store(str(home / "store.db"))
    assert store.find_run(first.out.strip()).state is RunState.CANCELLED
    store.close()


def test_a_schedule_is_made_shown_paused_triggered_and_removed(cli: Cli, flow: str) -> None:
    """With the next times in its own zone; a name is given once."""
    words = ("schedule", "create", "nightly", flow, "30 2 * * *", "--tz", "Asia/Tokyo", "--param", "year=2013")
    made = cli(*words)
    assert made.status == 0, made.err
    assert "02:30 JST" in made.out
    assert "Take another name" in cli(*words).err
    assert "nightly" in cli("schedule", "ls").out
    assert cli("schedule", "show", "nightly").out.count("02:30 JST") == 5
    assert cli("schedule", "pause", "nightly").status == 0
    assert "paused" in cli("schedule", "ls").out
    assert cli("schedule", "resume", "nightly").status == 0
    assert cli("schedule", "trigger", "nightly").out.startswith("nightly.manual-")
    planned = cli("backfill", "nightly", "--from", "2024-01-01", "--to", "2024-01-04", "--dry-run")
    assert planned.out.count("to begin") == 3
    assert "2024-01-01 02:30 JST" in planned.out
    assert (
        cli("backfill", "nightly", "--from", "2024-01-01", "--to", "2024-01-04", "--limit", "2").out
        == "2 runs queued\n"
    )
    again = cli("backfill", "nightly", "--from", "2024-01-01", "--to", "2024-01-04", "--json").json
    assert [run["begun"] for run in again] == [False, False, True]
    assert cli("schedule", "rm", "nightly").status == 0
    assert "no schedules yet" in cli("schedule", "ls").err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("submit", "FLOW", "year=1", "--queue", "defualt"), "there is no queue 'defualt'. Did you mean default?"),
        (("submit", "FLOW", "year=1", "--in", "soon"), "Say 90s, 30m, 12h or 2d"),
        (("submit", "FLOW", "year=1", "--at", "noon"), "'noon' is no time"),
        (("submit", "gone.py:served"), "there is no file gone.py"),
        (("submit", "FLOW"), "year"),
        (("queue", "set", "q", "--concurrency", "-1"), "concurrency is -1"),
        (("queue", "set", "q", "--rate", "10/0s"), "rate '10/0s' lets nothing begin"),
        (("queue", "set", "q", "--rate", "ten"), "Say how many in what time"),
        (("queue", "set", "a,b"), "can't be a queue's name"),
        (("queue", "show", "gone"), "there is no queue 'gone'"),
        (("schedule", "create", "s", "FLOW", "61 * * * *"), "minute 61 is not from 0 to 59"),
        (("schedule", "create", "s", "FLOW", "@daily", "--tz", "Mars/Base"), "there is no time zone 'Mars/Base'"),
        (("schedule", "create", "s", "FLOW", "@daily"), "year"),
        (("schedule", "pause", "gone"), "there is no schedule 'gone'"),
        (("backfill", "gone", "--from", "2024-01-01"), "there is no schedule 'gone'"),
        (("backfill", "s", "--from", "yesterday"), "is no date"),
        (("serve", "--grace", "soon"), "is not a duration"),
        (("serve", "--hosts", "0"), "hosts=0"),
        (("serve", "--queues", "gone"), "there is no queue 'gone'"),
        (("serve", "--store", "memory:"), "no other process sees it"),
    ],
)
def test_what_can_not_be_meant_is_one_line(cli: Cli, flow: str, words: tuple[str, ...], what: str) -> None:
    """It names what was said, and what would do."""
    done = cli(*(flow if word == "FLOW" else word for word in words))
    assert done.status not in (0, 1)
    assert what in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


def test_a_run_that_is_removed_leaves_its_queue(cli: Cli, flow: str) -> None:
    """Its place, and its word for duplicates, are free at once, with nobody serving."""
    assert cli("submit", flow, "year=1", "--dedup", "d", "--run-id", "r1").status == 0
    assert cli("rm", "--force", "r1").status == 0
    assert cli("submit", flow, "year=1", "--dedup", "d", "--run-id", "r2").status == 0
    assert cli("queue", "purge", "default").out == "1 run cancelled\n"
