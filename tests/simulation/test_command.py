"""`python -m dagengine.runtime.simulation`: a failing seed can be run again alone, and read."""

from __future__ import annotations

import sys

import pytest

from dagengine.runtime.simulation import __main__ as command
from tests.simulation import planted


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["simulation", *arguments])
    return command.main()


def test_a_seed_is_run_with_its_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event and action is a line, with tasks by their ids; the last line says what came of it."""
    assert _run(monkeypatch, "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("features: ")
    assert any("Submitted(requests=[task " in line for line in lines)
    assert any("─▶ Run(node=0" in line for line in lines)
    assert lines[-1].startswith("seed 3: ")
    assert "'done': " in lines[-1]


def test_a_failing_seed_is_cut_down_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a bug planted: what is left of the scenario, and the Violation in one line."""
    planted.a_task_is_leased_twice(monkeypatch)
    assert _run(monkeypatch, "0", "--shrink", "--quiet") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("units [")
    assert "is leased to node" in lines[-1]
    assert lines[-1].startswith("seed 0 fails: ")


def test_many_seeds_are_run_and_the_failing_ones_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A range is from the first to before the last."""
    assert _run(monkeypatch, "0-3") == 0
    assert capsys.readouterr().out == "0 of 3 seeds fail\n"
    planted.a_task_is_leased_twice(monkeypatch)
    assert _run(monkeypatch, "0-3") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["0", "1", "2", "3 of 3 seeds fail"]


def test_a_word_is_no_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong, and what to give instead."""
    with pytest.raises(SystemExit):
        _run(monkeypatch, "seven")
    assert "seven is no seed: give a number, or FROM-TO" in capsys.readouterr().err
