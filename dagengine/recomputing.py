"""Bytes of recorded values that are gone or damaged: found, named with the steps that need them, and made again.

A value is made again by calling its task once more, here, with its recorded inputs and its run's code; what those lack is
made first, so the climb ends at values that are there. **A recorded result is never replaced**: what is made counts only
if it has the recorded digest, which of a task whose result depends on the day it will not have. The effects of a task
happen again; so this is done only when somebody says so.

May import everything of the workflow layer but the engine and the command line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dagengine.debugging import prepare
from dagengine.errors import ArtifactDamaged, ArtifactMissing, DagengineError
from dagengine.model import INLINE_LIMIT, PayloadInput, RunRecord, StepInput, StepRecord, StepState
from dagengine.values import encode

if TYPE_CHECKING:
    from dagengine.forks import Place
    from dagengine.storage.interface import ArtifactStore

CHUNK = 1 << 20


@dataclass(slots=True)
class Gap:
    """A value whose bytes are not as they were recorded.

    step: whose value it is, or None of a large argument; what: "missing" or "damaged"; readers: keys of the steps that need
        it; outcome: what came of making it again, "" if that was not tried
    """

    digest: str
    size: int
    what: str
    step: StepRecord | None
    readers: tuple[str, ...]
    outcome: str = ""

    def to_json(self) -> dict[str, object]:
        key = None if self.step is None else self.step.key
        return {
            "digest": self.digest,
            "size": self.size,
            "what": self.what,
            "step": key,
            "readers": list(self.readers),
            "outcome": self.outcome,
        }


def gaps(place: Place, run: RunRecord, keys: Iterable[str] = ()) -> list[Gap]:
    """The values of the run that are missing or damaged, in the order in which they were recorded; of the steps `keys`, if
    any are named. Reads every byte of them."""
    only = set(keys)
    readers: dict[int, list[str]] = {}
    payloads: dict[PayloadInput, list[str]] = {part: [] for part in run.inputs}
    for call in place.store.recorded_calls(run.number):
        for part in call.inputs:
            if isinstance(part, StepInput):
                readers.setdefault(part.seq, []).append(call.key)
            else:
                payloads.setdefault(part, []).append(call.key)
    found = []
    for payload, needed in payloads.items():
        what = "" if only else _state(place.artifacts, payload.digest, payload.size)
        if what:
            found.append(Gap(payload.digest, payload.size, what, None, tuple(needed)))
    for step in _large(place, run):
        if (not only or step.key in only) and step.value_digest is not None and step.value_size is not None:
            what = _state(place.artifacts, step.value_digest, step.value_size)
            if what:
                found.append(Gap(step.value_digest, step.value_size, what, step, tuple(readers.get(step.seq, ()))))
    return found


def _large(place: Place, run: RunRecord) -> Iterator[StepRecord]:
    for step in place.store.steps(run.number, states=(StepState.SUCCEEDED,)):
        if step.value_digest and step.value_size is not None and step.value_size > INLINE_LIMIT:
            yield step


def _state(artifacts: ArtifactStore, digest: str, size: int) -> str:
    """ "" if the bytes are there and right, else "missing" or "damaged"."""
    artifacts.forget_copy(digest)
    try:
        path = artifacts.local_path(digest, size)
    except ArtifactMissing:
        return "missing"
    except ArtifactDamaged:
        return "damaged"
    known = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            known.update(chunk)
    return "" if known.hexdigest() == digest else "damaged"


def recompute(place: Place, run: RunRecord, found: Iterable[Gap]) -> Iterator[Gap]:
    """Make these values again, in their order, and give each with what came of it ("made again", or why not)."""
    for gap in found:
        gap.outcome = _made_again(place, run, gap)
        yield gap


def _made_again(place: Place, run: RunRecord, gap: Gap) -> str:
    if gap.step is None:
        return "it was given to the run from outside: bring its file back"
    try:
        value = prepare(place, run, gap.step.key).call()
        encoded = encode(value, f"the value of {gap.step.key}", "value")
    except DagengineError as error:
        return str(error)
    except Exception as error:
        return f"its task raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if encoded.digest() != gap.digest:
        return f"its task returned something else than was recorded: dagengine fork {run.id[:8]} --from {gap.step.key}"
    place.artifacts.drop(gap.digest)
    place.artifacts.put(gap.digest, encoded.size, encoded.to_bytes())
    return "made again"
