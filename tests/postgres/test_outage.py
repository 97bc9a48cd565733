"""A server that is away for a minute while a thousand steps are ready: the minute is the store's, and passes at once."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from dagengine import Engine, context, task, workflow
from dagengine.model import StepState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage import postgres_connections
from dagengine.storage.postgres import PostgresStore
from tests.postgres.server import Server
from tests.storage.kit import PATIENCE

STEPS, OUTAGE = 1_000, 60.0
BLOCKS = 2_000
"""Python's memory blocks that may come and go beside: two for each step would be in sight."""

executed: Counter[str] = Counter()
reached = threading.Event()


@task
def work(number: int) -> int:
    executed[str(context().key)] += 1
    if len(executed) == STEPS // 10:
        reached.set()
        assert away.wait(PATIENCE)
    return number


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@workflow
def wide() -> int:
    return total(work.map(range(STEPS)))


away = threading.Event()


class Minute(threading.Event):
    """In the place of what the store waits with: time passes at once until the minute is over, then the server is back."""

    def __init__(self, runtime: InlineRuntime) -> None:
        super().__init__()
        self._runtime = runtime
        self.time = 0.0
        self.waits: list[float] = []
        self.blocks: list[int] = []
        """In use half-way, when what was under way has come to rest, and at the end."""
        self.over, self.back = threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        while self._runtime._queue:  # all that it may have is executed first, and then waits to be recorded
            super().wait(0.005)
        if self.time < OUTAGE:
            self.time += timeout
            self.waits.append(timeout)
            if self.time >= (OUTAGE if self.blocks else OUTAGE / 2) and len(self.blocks) < 2:
                gc.collect()
                self.blocks.append(sys.getallocatedblocks())
        else:
            self.over.set()
            assert self.back.wait(PATIENCE)
        return self.is_set()


def test_a_minute_without_a_server_loses_and_repeats_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few attempts to reach it, no more than two seconds apart; no more results that wait than attempts are out; the same
    memory at the end of the minute; and each step is executed and recorded once, though the lease was over."""
    executed.clear()
    runtime = InlineRuntime()
    minute = Minute(runtime)
    store = PostgresStore(server.url("runs"))
    store._connection.over = minute
    monkeypatch.setattr(postgres_connections, "time", SimpleNamespace(monotonic=lambda: minute.time))
    with Engine(store, home=tmp_path, workers=1, runtime=runtime) as engine:
        run = engine.start(wide)
        assert reached.wait(PATIENCE)
        server.stop()
        away.set()
        assert minute.over.wait(PATIENCE)
        in_vain = len(executed)
        server.start()
        server.run(f"UPDATE runs.process SET expires_at = 0 WHERE id = '{engine.process.id}'")
        minute.back.set()
        assert run.result() == sum(range(STEPS))
        assert Counter(step.state for step in run.steps()) == {StepState.SUCCEEDED: STEPS + 1}
    assert set(executed.values()) == {1}
    assert len(executed) == STEPS
    assert in_vain <= STEPS // 10 + engine.window
    assert len(minute.waits) < 80
    assert len(set(minute.waits)) == len(minute.waits), "many who wait come back at the same moments"
    assert max(minute.waits) <= postgres_connections.LONGEST_WAIT
    half_way, at_the_end = minute.blocks
    assert abs(at_the_end - half_way) < BLOCKS


RESTARTS = (100, 400, 700)
"""Steps at which the server is restarted, while those after them are at work."""


@task
def mark(number: int, folder: str) -> int:
    descriptor = os.open(f"{folder}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    if number in RESTARTS:
        Path(f"{folder}/{number}").write_text("reached")  # a pipe: until somebody reads
    return number


@workflow
def marked(folder: str) -> int:
    return total(mark.map(range(STEPS), folder))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_run_at_work_survives_restarts_of_the_server(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    """With a worker process that goes on meanwhile: every step is executed and recorded once."""
    for number in RESTARTS:
        os.mkfifo(tmp_path / str(number))
    with Engine(server.url("runs"), home=tmp_path, workers=1) as engine:
        run = engine.start(marked, str(tmp_path))
        for number in RESTARTS:
            assert (tmp_path / str(number)).read_text() == "reached"
            server.restart(how)
        assert run.result() == sum(range(STEPS))
        assert {step.state for step in run.steps()} == {StepState.SUCCEEDED}
        assert {step.attempts for step in run.steps()} == {1}
    ledger = Counter((tmp_path / "ledger").read_text().split())
    assert ledger == Counter(str(number) for number in range(STEPS))
