"""A server whose disk is really full: what it says, and that runs go on by themselves when there is room again."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dagengine import Engine, task, workflow
from dagengine.errors import StoreFull
from dagengine.model import StepState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage import postgres_connections
from dagengine.storage.postgres_connections import Waiting
from tests.postgres.conftest import Open
from tests.postgres.small_disk import SmallDisk, mountable
from tests.storage.kit import ME, PATIENCE, begin, dead, event, recorded, write

STEPS = 500
BYTES = 12_000
"""Of each step's value, which is below what becomes an artifact."""


@task
def fill(number: int) -> bytes:
    return random.Random(number).randbytes(BYTES)  # which nothing makes smaller


@task
def measure(parts: list[bytes]) -> int:
    return sum(len(part) for part in parts)


@workflow
def filling() -> int:
    return measure(fill.map(range(STEPS)))


@pytest.fixture
def small_disk() -> Iterator[Callable[[str], SmallDisk]]:
    """Starts a server with a small disk, which is gone after the test."""
    if mountable():
        pytest.skip(f"nobody may mount anything here: {mountable()}")
    made: list[SmallDisk] = []

    def make(what: str) -> SmallDisk:
        made.append(SmallDisk(what))
        return made[-1]

    yield make
    for server in made:
        server.remove()


class Faults:
    """What the store has met and waits for."""

    def __init__(self) -> None:
        self.met: list[BaseException] = []
        self.first = threading.Event()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults()
    wait = Waiting.wait

    def noted(self: Waiting, error: BaseException) -> bool:
        found.met.append(error)
        found.first.set()
        return wait(self, error)

    monkeypatch.setattr(Waiting, "wait", noted)
    monkeypatch.setattr(postgres_connections, "NOTICE_AFTER", 0.0)
    return found


@pytest.mark.parametrize("what", ["tables", "log"])
def test_a_run_goes_on_by_itself_when_there_is_room_again(
    small_disk: Callable[[str], SmallDisk], faults: Faults, caplog: pytest.LogCaptureFixture, tmp_path: Path, what: str
) -> None:
    """With full tables the server refuses what is written; with a full log that, too, or it goes down."""
    server = small_disk(what)
    with Engine(server.url("runs"), home=tmp_path, runtime=InlineRuntime()) as engine:
        server.fill()
        run = engine.start(filling)
        assert faults.first.wait(PATIENCE)
        server.make_room()
        while not run.wait(0.5):
            server.revive()
        assert run.result() == STEPS * BYTES
        assert {step.state for step in run.steps()} == {StepState.SUCCEEDED}
        assert {step.attempts for step in run.steps()} == {1}
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if what == "tables":
        assert [type(error) for error in faults.met] == [psycopg.errors.DiskFull] * len(faults.met)
        assert said[0].startswith(f"the store {engine.store.url} does not take what is written: the disk of its server")
    assert "answers again" in said[-1]


def test_a_disk_that_stays_full_is_one_line(
    small_disk: Callable[[str], SmallDisk], open_store: Open, faults: Faults
) -> None:
    """After the store's patience; what was recorded stands, and who claims the run anew goes on with it."""
    server = small_disk("tables")
    store = open_store(server.url("runs", patience="0"))
    claim = begin(store)
    recorded(store, claim, event("small"))
    server.fill()
    error = write(store, claim, *(event(random.Random(number).randbytes(8_000).hex()) for number in range(200)))
    assert isinstance(error, StoreFull)
    assert str(error) == f"the disk of the server of {store.url} is full. Make room there, then resume"
    assert isinstance(write(store, claim, event("late")), StoreFull)
    server.make_room()
    claim = store.claim(claim.run_id, ME, dead)
    recorded(store, claim, event("later"))
    assert [found.kind for found in store.events(claim.run_number)] == ["small", "later"]
