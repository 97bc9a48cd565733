"""What is true of a RunCore after each event. Checked by tests after each; too dear for every event of a real run.

I1  A step is in the phase that its facts say: ended phases have an end, others have none.
I2  `missing` is the number of distinct inputs whose end is not durable, or of items that have none, unless the step has
    ended.
I3  A step that may run has its own record and all of its inputs durable and succeeded (output commit).
I4  `in_flight` and `unfinished` are the counts that they claim to be; in_flight never exceeds the window.
I5  Orders of completion are distinct, and below `next_order`.
I6  Every step that is READY is queued exactly once.
I7  A run that asked to finish has nothing in flight; one that succeeded has only steps that did, or handled failures.
I8  What waits for an answer of the store is exactly what is NEW or ENDING.
I9  A call that may change a stateful object's state is alone with it: every call before it has ended, and none behind it
    has its turn. An object's counts of unfinished calls, and of those that are out, are what they claim to be.
I10 A call goes out to an actor that is up, and one that is parked waits for one that is being started.
I11 A step that succeeded stays only if its value is ephemeral, and is held only then; what is remade is not held, and no
    value is held of which nobody can ask for any more.
I12 A step waits for the world if and only if it is of a kind that does, is recorded, and misses no input; and it has no
    attempt.
I13 A claim in the cache is of a step whose end was not asked for.
"""

from __future__ import annotations

from collections import Counter

from dagengine.core.chain import Instance, Life
from dagengine.core.core import RunCore
from dagengine.core.states import ENDS, BodyPhase, Phase, Stop
from dagengine.core.step import Step
from dagengine.errors import InternalError
from dagengine.model import RunState, StepInput, StepState

_OUT = (Phase.SUBMITTED, Phase.RUNNING)
_MAY_RUN = (Phase.READY, Phase.PARKED, Phase.SUBMITTED, Phase.RUNNING, Phase.RETRYING)


def check(core: RunCore) -> None:
    """Raises InternalError, naming the step, if an invariant does not hold."""
    for step in core.steps.values():
        _check_step(core, step)
    steps = core.steps.values()
    _demand(core.in_flight == sum(step.phase in _OUT for step in steps), "I4: in_flight is wrong")
    _demand(core.unrecorded == sum(step.phase is Phase.ENDING for step in steps), "I4: unrecorded is wrong")
    _demand(core.in_flight <= core.window, "I4: more in flight than the window allows")
    _demand(core.unfinished == sum(step.end is None for step in steps), "I4: unfinished is wrong")
    taken_over = {step.seq for step in steps if step.order < 0 and core.is_ephemeral(step.seq)}  # ended before
    orders = [step.order for step in steps if step.end is not None and step.seq not in taken_over]
    _demand(len(set(orders)) == len(orders), "I5: two steps have the same order")
    _demand(all(0 <= order < core.next_order for order in orders), "I5: an order is out of range")
    queued = Counter(core._ready)
    for step in steps:
        if step.phase is Phase.READY:
            _demand(queued[step.seq] >= 1, f"I6: {step.key} is ready and not queued")
    waiting = Counter(seq for batch in [*core._batches, core._batch] for seq in batch.new + batch.ended + batch.remade)
    for step in steps:
        if step.phase in (Phase.NEW, Phase.ENDING):
            _demand(waiting[step.seq] >= 1, f"I8: {step.key} is {step.phase.name} and nothing will tell")
    _check_ephemeral(core)
    if core.finish_asked:
        _demand(core.in_flight == 0, "I7: the run asked to finish with attempts in flight")
        if core.stop == Stop.NO and not core.asleep:
            _demand(core.unfinished == 0, "I7: the run asked to finish with unfinished steps")
    for instance in core.instances.values():
        _check_instance(
            core, instance, [step for step in steps if step.place is not None and step.place.instance is instance]
        )
    for batch in core._batches:
        if batch.finished is RunState.SUCCEEDED:
            _demand(not core.unhandled, "I7: the run succeeded with a failure that nobody handled")


def _check_ephemeral(core: RunCore) -> None:
    for step in core.steps.values():
        if step.phase is Phase.SUCCEEDED:
            _demand(core.is_ephemeral(step.seq), f"I11: {step.key} stays after it succeeded")
    for seq in core.held:
        step = core.steps[seq]
        _demand(core.is_ephemeral(seq), f"I11: {step.key} is held and recorded")
        _demand(seq not in core.remaking, f"I11: {step.key} is held and remade")
        needed = (
            core.body is BodyPhase.OPEN or seq in core.keeping or core.read_by(seq) > 0 or step.phase is Phase.ENDING
        )
        _demand(needed or bool(core.stop), f"I11: {step.key} is held, and nobody can ask for it")
    for seq in core.remaking:
        _demand(core.steps[seq].phase not in ENDS.values(), f"I11: {core.steps[seq].key} is remade, and has ended")


def _check_step(core: RunCore, step: Step) -> None:
    ended = step.phase is Phase.ENDING or step.phase in ENDS.values()
    _demand((step.end is not None) == ended, f"I1: {step.key} is {step.phase.name} with end {step.end}")
    if step.end is not None:
        if step.phase is not Phase.ENDING:
            _demand(step.phase is ENDS[step.end], f"I1: {step.key} is {step.phase.name} with end {step.end}")
        return
    if step.items is not None:
        ended_now = {seq for batch in [*core._batches, core._batch] for seq in batch.ended}
        read = {
            seq for seq in step.item_seqs() if seq not in ended_now or core.steps[seq].end is not StepState.SUCCEEDED
        }
    else:
        read = {item.seq for item in step.inputs if isinstance(item, StepInput)}
    missing = 0
    for seq in read:
        other = core.steps.get(seq)
        if other is None:
            state = core.ended_before.get(seq, StepState.SUCCEEDED)
            _demand(state is StepState.SUCCEEDED, f"I3: {step.key} waits for {seq}, which {state}")
        elif other.phase is not Phase.SUCCEEDED and (not core.is_ephemeral(seq) or step.seq in other.readers()):
            missing += 1  # of what is remade, a step that has it, or believes so, learns when it goes
    if step.place is not None and step.kind.is_call and not step.place.turn:
        missing += 1
    _demand(step.missing == missing, f"I2: {step.key} misses {missing} inputs, not {step.missing}")
    if step.kind.is_outside:
        _demand(step.phase not in _MAY_RUN and not step.attempt, f"I12: {step.key} is {step.phase.name}")
    if step.phase is Phase.OUTSIDE:
        _demand(step.kind.is_outside and missing == 0, f"I12: {step.key} is outside, and misses {missing} inputs")
    if step.phase is Phase.LOOKING:
        _demand(missing == 0, f"I3: {step.key} looks for its value before its inputs are durable")
    _demand(step.seq not in core._claims or step.end is None, f"I13: {step.key} has ended, and has a claim")
    if step.phase in _MAY_RUN:
        _demand(missing == 0, f"I3: {step.key} is {step.phase.name} before its inputs are durable")


def _check_instance(core: RunCore, instance: Instance, steps: list[Step]) -> None:
    name = f"object {instance.seq}"
    _demand(instance.out == sum(step.phase in _OUT for step in steps), f"I9: {name}: out is wrong")
    calls = sorted((step for step in steps if step.kind.is_call and step.end is None), key=lambda step: step.seq)
    _demand(instance.open == len(calls), f"I9: {name}: open is wrong")
    closed = False  # behind a call that is alone, or that waits for its turn, nobody has theirs
    for index, call in enumerate(calls):
        assert call.place is not None
        if call.place.turn:
            _demand(not closed and (call.readonly or index == 0), f"I9: {call.key} is not alone")
        closed = closed or not call.place.turn or not call.readonly
        if core.stop:
            continue
        if call.phase in _OUT and call.place.incarnation == instance.incarnation:
            _demand(instance.life is not Life.STARTING, f"I10: {call.key} is out before its actor is up")
        if call.phase is Phase.PARKED:
            _demand(call in instance.parked, f"I10: {call.key} is parked, and nothing will tell")
            _demand(instance.life is Life.STARTING, f"I10: {call.key} waits for an actor that nobody starts")


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InternalError(otherwise)
