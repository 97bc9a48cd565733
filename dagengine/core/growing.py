"""Steps that grow the run, in the run core: an attempt returns calls to be made after it, and these become steps.

The end of the attempt and the new steps are one batch. From then on the step is EXPANDED, as a map with its items is: it
has done its work, and waits for the steps that its value is made of. These are a range, whose list of values it is; or one
step, whose value it is, and then `items` is (that step, -1).

Keys of the new steps begin with that of the step that made them, as long as that reads well; below a long one, they begin
with the start of it and `@` with its number.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagengine.core.events import AttemptGrown, GrownCall
from dagengine.core.ledger import cancelled
from dagengine.core.outside import Outside
from dagengine.core.states import Phase, Stop
from dagengine.core.step import Step
from dagengine.model import Failure, NewStep, PendingStep, StepInput, StepKind, StepState, Value
from dagengine.storage.writes import ExpandStep

KEY_LENGTH = 240
"""Characters of a key below which keys are still spelled out: what a screen's line or two can show. Without a limit, a
recursion n deep would write n² of them."""

KEY_START = 120
"""Characters of the start of a long key that the keys below it begin with."""


class Growing(Outside):
    """Steps some of which grow the run."""

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        super().__init__(window, host, token)
        self._depths: dict[int, int] = {}  # by step: how many growths deep it is; of others, none
        self.last_values: dict[int, Value] = {}  # by step: its value, if that is recorded and an expanded one's, too

    def _attempt_grown(self, event: AttemptGrown, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        if self.stop == Stop.CANCEL:
            self._close_attempt(step, event, "succeeded")
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
            return
        definitions = self._define_new(event.definitions)
        depth = self._depths.get(step.seq, 0) + 1
        keys = grown_keys(step.key, step.seq, event.calls)
        failure = self._refused(step, depth, event.calls, keys)
        self._close_attempt(step, event, "succeeded" if failure is None else "failed", failure)
        if failure is not None:
            self._end(step, StepState.FAILED, event.at, failure=failure)
            return
        self._done_reading(step)
        first, last = event.first, event.first + len(event.calls) - 1
        step.items = (last, -1) if event.count is None else (last + 1 - event.count, event.count)
        step.call = None  # it is not called again
        self._go(step, Phase.EXPANDED)
        new = [
            NewStep(first + place, key, StepKind.TASK, call.definition, call.call, _inputs(first, call))
            for place, (key, call) in enumerate(zip(keys, event.calls, strict=True))
        ]
        self._depths.update((seq, depth) for seq in range(first, last + 1))
        self._record(definitions, new, now)
        self._actions.writes.append(ExpandStep(step.seq, *step.items))
        self._link(step, now)
        self._consider(step, now)

    def _refused(self, step: Step, depth: int, calls: list[GrownCall], keys: list[str]) -> Failure | None:
        for call in calls:
            most = self.options[call.definition].max_depth
            if depth > most:
                message = (
                    f"{step.key} defers {call.name}, {depth:,} deferred calls deep; max_depth={most:,} is the limit."
                    f" Let it end, or allow more: {call.name}.options(max_depth=...)."
                )
                return Failure("depth", "dagengine.errors.TooDeep", message, retriable=False)
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            message = f"two deferred calls have the key {twice}. Give each a key of its own."
            return Failure("definition", "dagengine.errors.DefinitionError", message, retriable=False)
        return None

    def _forget(self, step: Step) -> None:
        super()._forget(step)
        if self._depths:
            self._depths.pop(step.seq, None)

    def _load_growth(self, steps: Iterable[PendingStep]) -> None:
        """Of the steps that are left: how deep they are, from those that wait for them."""
        for pending in steps:  # in the order of seq: what a step has grown comes after it
            if pending.items is None:
                continue
            step = self.steps[pending.seq]
            step.value = self.last_values.get(pending.items[0])
            if pending.kind is StepKind.TASK:
                self._deepen(step, self._depths.get(step.seq, 0) + 1)
        self.last_values.clear()

    def _deepen(self, grown: Step, depth: int) -> None:
        todo = list(grown.item_seqs())
        while todo:
            step = self.steps.get(todo.pop())
            if step is not None and step.seq not in self._depths:
                self._depths[step.seq] = depth
                todo += [item.seq for item in step.inputs if isinstance(item, StepInput) and item.seq > grown.seq]


def grown_keys(above: str, seq: int, calls: list[GrownCall]) -> list[str]:
    """The keys of the steps that step `seq`, of the key `above`, has grown."""
    if len(above) > KEY_LENGTH:
        start = above.partition("/@")[0]
        above = (
            f"{start if len(start) <= KEY_START else start[:KEY_START].rpartition('/')[0] or start[:KEY_START]}/@{seq}"
        )
    ordinals: dict[str, int] = {}
    keys = []
    for call in calls:
        ordinal = ordinals.get(call.name, 0)
        if call.key is None:
            ordinals[call.name] = ordinal + 1
        keys.append(f"{above}/{call.name}[{ordinal if call.key is None else call.key}]")
    return keys


def _inputs(first: int, call: GrownCall) -> tuple[StepInput, ...]:
    return tuple(StepInput(first + place) for place in call.reads)
