"""Why a step of a fork ran, or did not: what differs from the step of the same key in the donor. Lines for people.

    shared      nothing that it is made from differs: its value is the donor's
    set         a person gave it its value
    ran         it was asked for; or its code, an argument, or a step that it reads differs; or the donor lacks it

Arguments whose bytes differ are decoded to be shown. May import nothing of
ours but errors, model, calls, shared_steps and the interface and side tables of storage.
"""

from __future__ import annotations

from dagengine.calls import show_call
from dagengine.errors import RunNotFound
from dagengine.model import RecordedCall, RunRecord, StepInput, StepRecord, StepState
from dagengine.shared_steps import fork_facts
from dagengine.storage.interface import Store
from dagengine.storage.origins import origins


def provenance(store: Store, run: RunRecord, step: StepRecord) -> list[str]:
    """What is to be said of where the step's value comes from, and why it was not shared if it was not."""
    origin = origins(store, run.number, [step.seq]).get(step.seq)
    if origin is not None and origin.get("by") != "cache":  # of the cache, its own account says more
        return [
            f"it did not run here: its value is that of step {origin.get('seq')} of run {origin['run']} ({origin['by']})"
        ]
    facts = fork_facts(run)
    if facts is None or run.forked_from is None:
        return []
    if is_shared(store, run, step):
        if step.seq in facts.get("given", ()):
            return [f"it did not run: its value was given when the run was forked from {run.forked_from[:12]}"]
        return [
            f"it did not run here: it is shared with run {run.forked_from[:12]}, nothing that it is made from differs"
        ]
    if step.key in facts.get("from", ()):
        return ["it ran because the run was forked from it" + (" or its code has changed" if facts.get("code") else "")]
    try:
        donor = store.find_run(run.forked_from)
    except RunNotFound:
        return [f"it is not known why it is not shared: run {run.forked_from[:12]} is gone"]
    before = store.steps(donor.number, key=step.key)
    if not before:
        return [f"run {donor.id[:12]} has no such step"]
    if before[0].state is not StepState.SUCCEEDED:
        return [f"it is not shared: in run {donor.id[:12]} it has {_ended(before[0])}"]
    return _differences(store, (donor, before[0]), (run, step))


def is_shared(store: Store, run: RunRecord, step: StepRecord) -> bool:
    """Whether the run has the step, with its end, from its donor."""
    facts = fork_facts(run) or {}
    if step.state is not StepState.SUCCEEDED or step.seq >= int(facts.get("below", 0)):
        return False
    order = store.finish_order(run.number, [step.seq]).get(step.seq)
    return order is not None and order < int(facts["order"])


def _differences(
    store: Store, before: tuple[RunRecord, StepRecord], after: tuple[RunRecord, StepRecord]
) -> list[str]:  # fmt: skip
    lines = []
    prints = []
    calls: list[RecordedCall] = []
    for run, step in (before, after):
        [definition] = [one for one in store.definitions(run.number) if one.number == step.definition]
        prints.append(definition.fingerprint)
        calls.append(next(one for one in store.recorded_calls(run.number) if one.seq == step.seq))
    if "" not in prints and prints[0] != prints[1]:
        lines.append(f"the code of {after[1].task} differs from that in run {before[0].id[:12]}")
    if calls[0].call != calls[1].call:
        shown = [
            show_call(step.task, (call.call, call.inputs))
            for (_, step), call in zip((before, after), calls, strict=True)
        ]
        if shown[0] != shown[1]:
            lines.append(f"its arguments differ: in run {before[0].id[:12]} it was {shown[0]}, here {shown[1]}")
    reads = [part.seq for part in calls[1].inputs if isinstance(part, StepInput)]
    again = [one for one in store.steps(after[0].number, seqs=reads) if not is_shared(store, after[0], one)]
    given = set((fork_facts(after[0]) or {}).get("given", ()))
    again += store.steps(after[0].number, seqs=[seq for seq in reads if seq in given])
    if again:
        keys = ", ".join(one.key for one in again[:5])
        lines.append(f"it reads {keys}{', …' if len(again) > 5 else ''}, which ran again or has another value")
    return lines or [f"something that it is made from ran again since run {before[0].id[:12]}"]


def _ended(step: StepRecord) -> str:
    return {StepState.FAILED: "failed", StepState.SKIPPED: "been skipped", StepState.CANCELLED: "been cancelled"}.get(
        step.state, "not ended"
    )
