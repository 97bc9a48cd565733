"""The runs that belong to a run: its child runs, theirs, and what each of them goes on in.

May import model, children, continuing and the store's interface.
"""

from __future__ import annotations

from collections.abc import Iterator

from dagengine.children import child_id
from dagengine.continuing import continued_as, find
from dagengine.model import RunRecord, StepKind
from dagengine.storage.interface import Store


def family_of(store: Store, run: RunRecord) -> list[RunRecord]:
    """The run's attached children with their families, and what it goes on in, before itself: whoever takes them in this
    order finds none without those that it needs. What was removed is left out, and so are detached runs."""
    found: list[RunRecord] = []
    # Each with whether those that it needs come before it by now. Not by recursion: a run may go on ten thousand times.
    left = [(run, False)]
    while left:
        one, complete = left.pop()
        if complete:
            found.append(one)
            continue
        left.append((one, True))
        left += [(known, False) for run_id in _ids(store, one) if (known := find(store, run_id)) is not None]
    return found


def _ids(store: Store, run: RunRecord) -> Iterator[str]:
    successor = continued_as(run)
    if successor is not None:
        yield successor
    detached = {found.number for found in store.definitions(run.number) if found.options.get("detached")}
    for call in store.recorded_calls(run.number):
        if call.kind is StepKind.CHILD and call.definition not in detached:
            yield child_id(run.id, call.seq)
