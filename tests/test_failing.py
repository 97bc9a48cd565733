"""What failed in a run, each kind once, in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dagengine import failing
from dagengine.failing import KINDS, NAMED, by_kind, failed_steps, raised_at
from dagengine.model import Failure, StepKind, StepRecord, StepState


def failed(seq: int, message: str, task: str = "extract") -> StepRecord:
    failure = Failure("error", "ValueError", message, f"Traceback of {message}\n" + "x" * 1000)
    return StepRecord(
        seq=seq,
        key=f"nightly/{task}[{seq}]",
        kind=StepKind.TASK,
        task=task,
        definition=0,
        state=StepState.FAILED,
        attempts=1,
        failure=failure,
        value_digest=None,
        value_size=None,
        created_at=0.0,
        finished_at=1.0,
    )


def test_steps_that_failed_alike_are_one_kind() -> None:
    """The first of them as the example, some keys of the others, and how many there are."""
    found = by_kind(failed(seq, "a" if seq % 2 else "b") for seq in range(100))
    assert found.count == 100
    assert [(kind.first.seq, kind.count, len(kind.others)) for kind in found.kinds] == [(0, 50, NAMED), (1, 50, NAMED)]
    assert found.untold == {}


def test_failures_that_all_differ_are_counted_and_not_kept() -> None:
    """A traceback and a message for each of very many steps would be gigabytes."""
    count = 20_000

    def steps() -> Iterator[StepRecord]:
        yield failed(0, "other", "merge")
        for seq in range(1, count):
            yield failed(seq, f"bad row {seq}")

    tracemalloc.start()
    try:
        found = by_kind(steps())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == count
    assert len(found.kinds) == KINDS
    assert found.untold == {"extract": count - KINDS}
    assert most < 2_000_000  # all of them would be twenty times as much


def test_a_failure_is_located_in_the_code_of_the_user() -> None:
    """Not in a library that it called; where there is nothing else, there."""
    own = '  File "/jobs/nightly.py", line 7, in extract\n    parse(text)\n'
    library = '  File "/venv/lib/python3.11/site-packages/lxml/etree.py", line 90, in parse\n    raise\n'
    for trace, at in [
        (own + library, "/jobs/nightly.py:7 in extract"),
        (library, "/venv/lib/python3.11/site-packages/lxml/etree.py:90 in parse"),
        ("", None),
    ]:
        assert raised_at(Failure("error", "ValueError", "bad", f"Traceback\n{trace}ValueError: bad\n")) == at


def test_they_are_read_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page after the last step of the one before; an empty one is the end, too."""
    steps = [failed(seq, "a") for seq in (1, 4, 5, 9)]
    asked: list[int] = []

    class Store:
        def steps(self, run: int, *, states: Any, after: int, limit: int) -> list[StepRecord]:
            asked.append(after)
            return [step for step in steps if step.seq > after][:limit]

    run: Any = SimpleNamespace(number=1)
    store: Any = Store()
    monkeypatch.setattr(failing, "PAGE", 2)
    assert list(failed_steps(store, run)) == steps
    assert asked == [-1, 4, 9]
