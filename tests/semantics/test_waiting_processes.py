"""Waiting runs and real processes: one that is killed, and one that is on another machine, as far as it can tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dagengine
from dagengine import signals
from dagengine.engine import Engine
from dagengine.errors import Fenced
from dagengine.model import RunState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import RunFilter
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.sqlite import SqliteStore
from tests.postgres.server import fresh_schema, shared

FLOW = Path(__file__).parent / "waiting_flow.py"


def dagengine_(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dagengine", *words],
        env={**os.environ, "DAGENGINE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_waits_on_when_its_process_is_killed(tmp_path: Path) -> None:
    """It belongs to nobody while it waits: a signal is kept, and whoever resumes the run finds it, and what was drawn."""
    running = dagengine_(tmp_path, "run", "--workers", "1", f"{FLOW}:asks")
    assert running.stdout is not None
    drew = ""
    for line in running.stdout:
        drew = line if line.startswith("drew") else drew
        if "waits for the signal answer" in line:
            break
    running.send_signal(signal.SIGKILL)
    running.communicate()
    store = SqliteStore(str(tmp_path / "store.db"))
    (run,) = store.runs(RunFilter())
    store.close()
    assert run.state is RunState.WAITING
    sent = dagengine_(tmp_path, "signal", run.id, "answer", "42")
    assert sent.communicate(timeout=300)[0] == f"run {run.id[:8]}: answer sent\n"
    resumed = dagengine_(tmp_path, "resume", run.id, "--json", "--workers", "1")
    out, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out
    number = float(drew.split()[1])
    assert json.dumps([number, 42]) in json.dumps(json.loads(out[out.index("{") :])["result"])


@dagengine.workflow
def waits_twice() -> list[object]:
    return [dagengine.wait_event("one"), dagengine.wait_event("two")]


def test_who_let_go_of_a_run_hears_that_another_took_it_up(tmp_path: Path) -> None:
    """It waits for it no longer, and says why."""
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as first:
        run = first.start(waits_twice)
        while run.state is not RunState.WAITING:
            assert not run.wait(0.002)
        with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as second:
            second.resume(run.id)
            assert run.wait(300)
            with pytest.raises(Fenced, match="another process has taken up run"):
                run.result()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """On PostgreSQL, with a lease so long that its heartbeats tell it nothing in time."""
    store = PostgresStore(shared().url(fresh_schema(), lease="3600"))
    with Engine(store, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


def test_a_signal_reaches_an_engine_on_another_machine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the database: whether the engine has the run, or has let go of it."""
    monkeypatch.setattr("dagengine.signals.platform.node", lambda: "elsewhere")
    monkeypatch.setattr("dagengine.outside.LINGER", 3600.0)
    far = signals.Post(engine.store, engine.artifacts, tmp_path / "nowhere")
    run = engine.start(waits_twice)
    while not run._driver.outside.waits:
        assert not run.wait(0.002)
    monkeypatch.setattr("dagengine.outside.LINGER", 0.0)
    signals.send(far, run.id, "one", 1)
    while run.state is not RunState.WAITING:
        assert not run.wait(0.002)
    signals.send(far, run.id, "two", 2)
    assert run.wait(300)
    assert run.result() == [1, 2]
