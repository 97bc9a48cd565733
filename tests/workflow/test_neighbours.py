"""Runs of one engine: what one holds without use, it gives to another that waits for it."""

from __future__ import annotations

import threading
from pathlib import Path

from dagengine import get, stateful, task, workflow
from dagengine.engine import Engine

WAIT = 300.0
trained, go_on = threading.Event(), threading.Event()


@stateful(gpus=1)
class Trainer:
    def __init__(self) -> None:
        self.epochs = 0

    def epoch(self) -> int:
        self.epochs += 1
        return self.epochs


@task(gpus=1)
def infer(x: int) -> int:
    return x + 1


@workflow
def training() -> list[int]:
    trainer = Trainer()
    first = get(trainer.epoch())
    trained.set()
    assert go_on.wait(WAIT)
    return [first, get(trainer.epoch())]


@workflow
def inference() -> int:
    return infer(1)


def test_an_idle_object_gives_its_device_to_another_run_that_waits_for_it(tmp_path: Path) -> None:
    """There is one device, and a trainer has it whose run waits for something else. The other run is done before that goes
    on; and the trainer's next epoch counts on from the one before."""
    trained.clear()
    go_on.clear()
    with Engine(tmp_path / "store.db", home=tmp_path, workers=2, gpus=1) as engine:
        one = engine.start(training)
        assert trained.wait(WAIT)
        other = engine.start(inference)
        assert other.wait(WAIT)
        assert other.result() == 2
        go_on.set()
        assert one.result() == [1, 2]
