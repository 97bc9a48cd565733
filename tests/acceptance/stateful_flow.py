"""A small stateful workflow, and a program that runs or resumes it and dies where it is told to: see crash_flow.

Its ledger has a line for each call that is executed: as a step ("step KEY"), or replayed to rebuild a state ("again").
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dagengine import Engine, context, gather, get, readonly, stateful, task, workflow
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import Runtime
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.sqlite import SqliteStore
from tests.acceptance.crash_flow import LEDGER, suicide

RUNTIMES: dict[str, Any] = {"inline": InlineRuntime, "processes": lambda: ProcessRuntime(2)}


def mark(method: str) -> None:
    """A step's context names the step that runs; while a state is rebuilt it is the creation."""
    key = context().key or ""
    word = "step" if f"/{method}[" in key else "again"
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word} {key}\n".encode())
    os.close(descriptor)


@task
def source(n: int) -> list[int]:
    return list(range(n))


@stateful(checkpoint_every=2)
class Model:
    """Its state is an artifact: it is larger than a row takes."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size)
        self.epochs = 0

    def epoch(self, rows: list[int]) -> float:
        mark("epoch")
        self.weights = self.weights + sum(rows)
        self.epochs += 1
        return float(self.weights[0])

    def stumble(self) -> float:
        mark("stumble")
        self.weights = self.weights + 1_000_000
        raise ValueError("half of a change")

    @readonly
    def score(self) -> tuple[int, float]:
        mark("score")
        return self.epochs, float(self.weights.sum())


@workflow
def training(n: int) -> list[Any]:
    model = Model(3_000)
    rows = source(n)
    losses = [model.epoch(rows) for _ in range(3)]
    try:
        get(model.stumble())
    except ValueError:
        losses.append(model.epoch([int(get(losses[0]))]))
    scores = [model.score(), model.score()]
    losses.append(model.epoch(rows))
    return [*gather(losses), *gather(scores)]


EXPECTED = [3.0, 6.0, 9.0, 12.0, 15.0, (4, 36_000.0), (4, 36_000.0)]


def main(folder: Path, verb: str, *where: str) -> None:
    kind, when, count = (where[0], where[1], int(where[2])) if where else ("", "", 0)
    on_commit, on_step = suicide(kind, when, count)
    os.environ[LEDGER] = str(folder / "ledger")
    store = SqliteStore(str(folder / "store.db"), on_commit=on_commit)
    runtime: Runtime = RUNTIMES[os.environ.get("DAGENGINE_TEST_RUNTIME", "inline")]()
    with Engine(store, home=folder, workers=1, runtime=runtime) as engine:
        engine.artifacts.close()
        engine.artifacts = LocalArtifacts(str(folder / "artifacts"), on_step=on_step)
        run = engine.start(training, 3) if verb == "begin" else engine.resume("")
        print(run.result())


if __name__ == "__main__":
    from tests.acceptance import stateful_flow  # the workflow of the importable module, which workers find by name

    stateful_flow.main(Path(sys.argv[1]), *sys.argv[2:])
