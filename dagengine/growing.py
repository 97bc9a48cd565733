"""What a task has deferred, as an event for the run core: its functions under the run's numbers, its calls beside seqs.

On the engine's thread. May import everything of the workflow layer that a driver may.
"""

from __future__ import annotations

from collections.abc import Callable

from dagengine.core.events import AttemptGrown, GrownCall
from dagengine.definitions import Definitions
from dagengine.model import Definition, Frontier, StepState, Value
from dagengine.runtime.growth import LaterFunction, read
from dagengine.runtime.protocol import Succeeded
from dagengine.storage.interface import Store


def growth_of(event: Succeeded, definitions: Definitions, take_seqs: Callable[[int], int]) -> AttemptGrown:
    """The event. `take_seqs` sets aside as many seqs."""
    assert event.grown is not None
    growth = read(event.grown)
    lasting = growth.count or 1
    first_lasting = len(growth.calls) - lasting
    known: dict[tuple[int, bool], Definition] = {}
    calls = []
    for place, call in enumerate(growth.calls):
        lasts = place >= first_lasting  # the step's own value is made of it, and that is recorded
        definition = known.get((call.function, lasts))
        if definition is None:
            definition = known[call.function, lasts] = _define(growth.functions[call.function], lasts, definitions)
        calls.append(GrownCall(definition.name, call.key, definition.number, call.call, tuple(call.reads)))
    _, seq, number = event.id
    return AttemptGrown(
        *(seq, number, event.worker, event.started_at, event.finished_at),
        definitions=list(known.values()),
        calls=calls,
        first=take_seqs(len(calls)),
        count=growth.count,
    )


def _define(function: LaterFunction, lasts: bool, definitions: Definitions) -> Definition:
    options = function.options
    if lasts:
        options = {name: option for name, option in options.items() if name != "checkpoint"}
    return definitions.grown(Definition(-1, function.name, function.reference, options, function.fingerprint))


def ended_last_values(frontier: Frontier, store: Store, run_number: int) -> dict[int, Value]:
    """Of expanded steps that are left, and whose value is that of one other step: that one's, where it has ended."""
    last = [step.items[0] for step in frontier.steps if step.items is not None and step.items[1] < 0]
    ended = [seq for seq in last if frontier.ended_inputs.get(seq) is StepState.SUCCEEDED]
    return store.values(run_number, ended) if ended else {}
