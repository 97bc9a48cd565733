"""Time and events, with a crash before and after each write, on every store."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import dagengine
from dagengine import outside
from dagengine.approvals import answer_of, send_answer
from dagengine.engine import Engine
from dagengine.errors import RunExists
from tests.semantics.conftest import Everywhere

drawn: list[Any] = []


@dagengine.task
def charge(amount: float) -> float:
    return amount


@dagengine.workflow
def order() -> list[Any]:
    number = dagengine.random()
    drawn.append(number)
    dagengine.sleep(0.01)
    paid = dagengine.wait_event("paid")
    sent = dagengine.wait_event("sent", timeout=0.01, default="not yet")
    return [dagengine.get(charge(paid)), sent, number in drawn]


def pays(engine: Engine, run_id: str) -> None:
    with contextlib.suppress(RunExists):
        engine.signal(run_id, "paid", 12.5, signal_id="the one")


def test_time_and_signals_survive_a_crash_at_any_write(everywhere: Everywhere) -> None:
    """A signal that is sent again after each crash counts once; timers fire once."""
    for report in everywhere(order, world=pays).values():
        assert report.result == [12.5, "not yet", True]


@dagengine.workflow
def release() -> str:
    try:
        answer = dagengine.wait_approval("release")
    except dagengine.Rejected as error:
        return f"{error.by} said no: {error.why}"
    return f"{answer.by} said yes: {answer.why}"


def rejects(engine: Engine, run_id: str) -> None:
    with contextlib.suppress(RunExists):
        send_answer(engine.post, run_id, "release", answer_of(False, "ada", "not on a Friday"))


def test_an_answer_survives_a_crash_at_any_write(everywhere: Everywhere) -> None:
    """With who gave it, and why."""
    for report in everywhere(release, world=rejects).values():
        assert report.result == "ada said no: not on a Friday"


@dagengine.workflow
def long_wait() -> str:
    dagengine.sleep(0.05)
    return str(dagengine.wait_event("go"))


def goes(engine: Engine, run_id: str) -> None:
    with contextlib.suppress(RunExists):
        engine.signal(run_id, "go", "gone", signal_id="1")


def test_a_run_that_is_let_go_of_survives_a_crash_at_any_write(
    everywhere: Everywhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumes it goes on, whether it had fallen asleep, was about to, or was being woken."""
    monkeypatch.setattr(outside, "LINGER", 0.0)
    monkeypatch.setattr(outside, "SHORT", 0.0)
    for report in everywhere(long_wait, world=goes).values():
        assert report.result == "gone"
