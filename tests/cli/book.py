"""Writing a record by hand: runs and steps in any state, without running anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dagengine.identity import this_process
from dagengine.model import (
    AttemptRecord,
    Claim,
    Definition,
    Failure,
    NewRun,
    NewStep,
    ProcessRecord,
    RunRecord,
    RunState,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun, FinishStep, RecordAttempt, RecordSteps
from dagengine.values import encode
from tests.storage.kit import recorded

HERE = this_process()
"""This process: an owner that is alive."""

DEAD = replace(HERE, id="dead", pid=2**22 + 1, start_time=1.0)
"""An owner on this machine that is dead: no pid is as large."""

ELSEWHERE = replace(HERE, id="elsewhere", host="another-machine")


def boom(message: str = "bad month 13", **facts: Any) -> Failure:
    trace = (
        "Traceback (most recent call last):\n"
        '  File "nightly.py", line 7, in extract\n'
        f"    raise ValueError({message!r})\n"
        f"ValueError: {message}\n"
    )
    return Failure("error", "ValueError", message, trace, facts=facts)


class Book:
    """One run that is being written down."""

    def __init__(
        self, store: Store, run_id: str = "7f3a", workflow: str = "nightly", owner: ProcessRecord | None = HERE
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.workflow = workflow
        entry = {"module": workflow, "qualname": workflow, "file": f"/jobs/{workflow}.py"}
        self.began = (owner or HERE).started_at + 1
        new = NewRun(run_id, workflow, entry, encode(((), {})).to_bytes(), (), self.began, {"python": "3.11"})
        claim = store.create_run(new, owner)
        self._claim = claim
        self._seqs: dict[str, int] = {}
        self._definitions: dict[str, int] = {}
        self._order = 0

    @property
    def claim(self) -> Claim:
        assert self._claim is not None
        return self._claim

    @property
    def run(self) -> RunRecord:
        return self.store.find_run(self.run_id)

    def step(self, name: str, *reads: str, kind: StepKind = StepKind.TASK) -> int:
        """Record a call. `name`: its key without the workflow's name; `reads`: names of steps that it reads."""
        seq = len(self._seqs)
        task = name.rpartition("/")[2].partition("[")[0].removesuffix(".map")
        definitions: tuple[Definition, ...] = ()
        if task not in self._definitions:
            self._definitions[task] = len(self._definitions)
            definitions = (Definition(self._definitions[task], task, {"module": "nightly", "qualname": task}, {}),)
        inputs = tuple(StepInput(self._seqs[read]) for read in reads)
        new = NewStep(seq, f"{self.workflow}/{name}", kind, self._definitions[task], b"call", inputs)
        recorded(self.store, self.claim, RecordSteps(definitions, (new,), self.began + seq / 100))
        self._seqs[name] = seq
        return seq

    def attempt(self, name: str, number: int = 1, outcome: str | None = None, failure: Failure | None = None) -> None:
        began = self.began + 1
        recorded(
            self.store,
            self.claim,
            RecordAttempt(
                AttemptRecord(
                    self._seqs[name],
                    number,
                    3,
                    4711,
                    HERE.host,
                    began,
                    None if outcome is None else began + 0.5,
                    outcome,
                    failure,
                )
            ),
        )

    def succeed(self, *names: str, value: Any = 42) -> None:
        data = encode(value).to_bytes()
        held = Value(hashlib.sha256(data).hexdigest(), len(data), data)
        for name in names:
            self.attempt(name, outcome="succeeded")
            self._finish(name, StepState.SUCCEEDED, held, None)

    def fail(self, name: str, failure: Failure | None = None, attempts: int = 1) -> None:
        failure = failure or boom()
        for number in range(1, attempts + 1):
            self.attempt(name, number, "failed", failure)
        self._finish(name, StepState.FAILED, None, failure, attempts)

    def skip(self, *names: str, cause: str) -> None:
        facts = {"cause": f"{self.workflow}/{cause}"}
        failure = Failure("skipped", "dagengine.errors.StepSkipped", f"{cause} failed", facts=facts)
        for name in names:
            self._finish(name, StepState.SKIPPED, None, failure, 0)

    def _finish(
        self, name: str, state: StepState, value: Value | None, failure: Failure | None, attempts: int = 1
    ) -> None:
        at = self.began + 2 + self._order
        step = FinishStep(self._seqs[name], state, self._order, attempts, at, value, failure)
        recorded(self.store, self.claim, step)
        self._order += 1

    def end(self, state: RunState, failure: Failure | None = None) -> None:
        recorded(self.store, self.claim, FinishRun(state, self.began + 60, failure))

    def write(self, *writes: Any) -> None:
        recorded(self.store, self.claim, *writes)


def failed_run(store: Store, run_id: str = "7f3a") -> Book:
    """Three extracts, of which one failed; what reads it was skipped, the rest finished."""
    book = Book(store, run_id)
    for index in range(3):
        book.step(f"extract[{index}]")
    book.step("merge[0]", "extract[0]", "extract[1]", "extract[2]")
    book.step("publish[0]", "merge[0]")
    book.succeed("extract[0]", "extract[2]")
    book.fail("extract[1]", attempts=2)
    book.skip("merge[0]", "publish[0]", cause="extract[1]")
    book.end(RunState.FAILED, boom(step="nightly/extract[1]", failed=["nightly/extract[1]"]))
    return book


def rounds(book: Book, count: int, wide: int) -> Sequence[str]:
    """`count` rounds of a wide map and a reduce over it, each on the round before."""
    last: list[str] = []
    for turn in range(count):
        parts = [f"spread[{turn * wide + index}]" for index in range(wide)]
        for part in parts:
            book.step(part, *last)
        book.step(f"rank[{turn}]", *parts)
        last = [f"rank[{turn}]"]
    return last
