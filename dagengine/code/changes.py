"""A run's steps under today's code: which functions are the same, which have changed, which are gone.

Held against each other are fingerprints: what was recorded with the run's functions, and what this process has loaded.
May import errors, fingerprints, functions, model, packs, packing, pinning and storage.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dagengine.code.fingerprints import Source, described, difference, fingerprint, fingerprint_of
from dagengine.code.packing import load_pack
from dagengine.code.pinning import code_of
from dagengine.errors import LoadError
from dagengine.functions import Reference, resolve
from dagengine.model import Definition, RunRecord, StepRecord, StepState
from dagengine.packs import Pack
from dagengine.storage.interface import Store

SAME = "same"
KEPT = "changed and kept"
TO_RUN = "changed and to run"
GONE = "gone"
UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class FunctionChange:
    """verdict: SAME, "changed", GONE or UNKNOWN. parts: what of its code differs, where the pack still tells"""

    name: str
    verdict: str
    parts: tuple[str, ...] = ()


@dataclass(slots=True)
class CodeChanges:
    """steps: each with SAME, KEPT, TO_RUN, GONE or UNKNOWN; functions: by number of the definition"""

    steps: list[tuple[StepRecord, str]] = field(default_factory=list)
    functions: dict[int, FunctionChange] = field(default_factory=dict)

    def counts(self) -> Counter[str]:
        return Counter(verdict for _, verdict in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [
                {"seq": step.seq, "key": step.key, "state": str(step.state), "code": verdict}
                for step, verdict in self.steps
            ],
            "functions": [
                {"name": change.name, "code": change.verdict, "differs": list(change.parts)}
                for change in self.functions.values()
            ],
        }


def code_changes(store: Store, run: RunRecord) -> CodeChanges:
    """Of each step of the run what today's code means for it. Loads the modules of its functions, as they are today."""
    found = CodeChanges()
    pack = _pack_of(store, run)
    for definition in store.definitions(run.number):
        found.functions[definition.number] = _change(definition, pack)
    for step in store.steps(run.number):
        found.steps.append((step, _verdict(step, found.functions[step.definition])))
    return found


def _verdict(step: StepRecord, change: FunctionChange) -> str:
    if change.verdict != "changed":
        return change.verdict
    return KEPT if step.state is StepState.SUCCEEDED else TO_RUN


def _change(definition: Definition, pack: PackSources | None) -> FunctionChange:
    if "pickled" in definition.reference:
        return FunctionChange(definition.name, SAME)  # it travels with the run
    try:
        function = resolve(Reference.from_json(definition.reference))
    except LoadError:
        return FunctionChange(definition.name, GONE)
    if not definition.fingerprint:
        return FunctionChange(definition.name, UNKNOWN)
    if fingerprint(function) == definition.fingerprint:
        return FunctionChange(definition.name, SAME)
    reference = Reference.from_json(definition.reference)
    before = None if pack is None else fingerprint_of(pack, reference.module, reference.qualname.split(".__")[0])
    parts = () if before is None else tuple(difference(before, described(function)))
    return FunctionChange(definition.name, "changed", parts)


def _pack_of(store: Store, run: RunRecord) -> PackSources | None:
    digest = code_of(store, run)
    if digest is None:
        return None
    try:
        return PackSources(load_pack(store, digest))
    except LoadError:
        return None


@dataclass(frozen=True, slots=True)
class _PackedSource:
    data: bytes
    package: bool


class PackSources:
    """A pack's modules, for fingerprints."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack

    def find(self, name: str) -> Source | None:
        module = self._pack.modules.get(name)
        return None if module is None else _PackedSource(self._pack.source(name), module.kind != "module")
