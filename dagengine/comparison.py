"""What differs between two runs: code, arguments, steps, outputs, times. From the record.

Steps are paired by their keys, outputs held against each other by their digests; no value is read. Arguments whose bytes
differ are shown, for which they are decoded.

`differences` is a pure function of two lists of steps. May import nothing of ours but model, calls, views and storage's
interface.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dagengine.calls import show_call
from dagengine.model import RunRecord, StepState
from dagengine.storage.interface import Store
from dagengine.views import StepView, run_state, steps_view

SECONDS = 0.0005  # what is nearer is the same time


@dataclass(frozen=True, slots=True)
class Differences:
    """Of two runs, the first and the second. Keys, in the order of calling.

    states, outputs: keys of steps that are in both: how they ended, and the digests of their values
    times: by function, the seconds that its attempts took, where they differ
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    states: tuple[tuple[str, str, str], ...]
    outputs: tuple[tuple[str, str, str], ...]
    times: tuple[tuple[str, float, float], ...]
    same: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """arguments: the calls as text, if they differ; code: (function, what), if that differs; facts: of the surroundings"""

    runs: tuple[RunRecord, RunRecord]
    arguments: tuple[str, str] | None
    code: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str, str], ...]
    steps: Differences

    @property
    def equal(self) -> bool:
        """Whether the runs did the same: the same code and arguments, the same steps with the same outputs."""
        found = self.steps
        parts = (found.only_first, found.only_second, found.states, found.outputs, self.code)
        return self.arguments is None and not any(parts)

    def to_json(self) -> dict[str, Any]:
        found = self.steps
        return {
            "runs": [{"id": run.id, "workflow": run.workflow, "state": str(run_state(run))} for run in self.runs],
            "equal": self.equal,
            "arguments": None if self.arguments is None else list(self.arguments),
            "code": [{"function": name, "difference": what} for name, what in self.code],
            "facts": {name: [before, after] for name, before, after in self.facts},
            "only_first": list(found.only_first),
            "only_second": list(found.only_second),
            "states": [{"key": key, "first": before, "second": after} for key, before, after in found.states],
            "outputs": [{"key": key, "first": before, "second": after} for key, before, after in found.outputs],
            "times": [{"task": task, "first": before, "second": after} for task, before, after in found.times],
            "same_steps": found.same,
        }


def differences(first: Sequence[StepView], second: Sequence[StepView]) -> Differences:
    """What differs between the steps of two runs."""
    before = {step.key: step for step in first}
    after = {step.key: step for step in second}
    both = [(step, after[key]) for key, step in before.items() if key in after]
    states = [(a.key, str(a.state), str(b.state)) for a, b in both if a.state is not b.state]
    outputs = [
        (a.key, a.record.value_digest, b.record.value_digest)
        for a, b in both
        if a.state is b.state is StepState.SUCCEEDED
        and a.record.value_digest
        and b.record.value_digest
        and a.record.value_digest != b.record.value_digest
    ]
    return Differences(
        tuple(key for key in before if key not in after),
        tuple(key for key in after if key not in before),
        tuple(states),
        tuple(outputs),
        tuple(_times(first, second)),
        len(both) - len(states) - len(outputs),
    )


def _times(first: Sequence[StepView], second: Sequence[StepView]) -> list[tuple[str, float, float]]:
    seconds: tuple[dict[str, float], dict[str, float]] = (defaultdict(float), defaultdict(float))
    for of, steps in zip(seconds, (first, second), strict=True):
        for step in steps:
            for attempt in step.tries:
                if attempt.finished_at is not None:
                    of[step.record.task] += attempt.finished_at - attempt.started_at
    tasks = dict.fromkeys([*seconds[0], *seconds[1]])
    found = [(task, seconds[0].get(task, 0.0), seconds[1].get(task, 0.0)) for task in tasks]
    return sorted((row for row in found if abs(row[1] - row[2]) > SECONDS), key=lambda row: -abs(row[1] - row[2]))


def compare(store: Store, first: RunRecord, second: RunRecord) -> Comparison:
    """Everything that differs between two runs of a store."""
    arguments = None
    if (first.call, first.inputs) != (second.call, second.inputs):
        arguments = (
            show_call(first.workflow, (first.call, first.inputs)),
            show_call(second.workflow, (second.call, second.inputs)),
        )
    facts = [
        (name, str(first.facts.get(name)), str(second.facts.get(name)))
        for name in ("python", "host", "cwd", "timeout", "logical_time")
        if first.facts.get(name) != second.facts.get(name)
    ]
    steps = differences(steps_view(store, first), steps_view(store, second))
    return Comparison((first, second), arguments, _code(store, first, second), tuple(facts), steps)


def _code(store: Store, first: RunRecord, second: RunRecord) -> tuple[tuple[str, str], ...]:
    """The functions of which both runs know the code, and which differ; and those that only one of them called."""
    known: list[dict[str, set[str]]] = []
    for run in (first, second):
        prints: dict[str, set[str]] = defaultdict(set)
        for definition in store.definitions(run.number):
            prints[definition.name].add(definition.fingerprint)
        known.append(prints)
    before, after = known
    found = [
        (name, "its code differs")
        for name in before
        if name in after and "" not in before[name] | after[name] and before[name] != after[name]
    ]
    found += [(name, "only the first run calls it") for name in before if name not in after]
    found += [(name, "only the second run calls it") for name in after if name not in before]
    return tuple(found)
