"""Reading recorded values: from the row, from a mapped artifact, or as the list of a map's items.

Decoding runs the user's code: only bodies, and whoever asked for a result, read values. May import base modules,
failures and the interfaces of storage.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from dagengine.errors import ArtifactDamaged, ArtifactMissing
from dagengine.failures import exception_of
from dagengine.model import Input, PayloadInput, StepInput, Value
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.values import decode


def map_file(path: str, size: int) -> memoryview:
    """The file's bytes, mapped read-only. Raises ArtifactDamaged if there are not `size` of them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != size:
            raise ArtifactDamaged(f"{path} is damaged: it does not have the recorded size", digest="")
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


class Reader:
    """Values of one run."""

    def __init__(self, store: Store, artifacts: ArtifactStore, run_number: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._run_number = run_number

    def payload(self, payload: PayloadInput) -> Any:
        """A large argument. Raises ArtifactMissing or ArtifactDamaged."""
        return self._artifact(payload.digest, payload.size)

    def _artifact(self, digest: str, size: int) -> Any:
        data = map_file(self._artifacts.local_path(digest, size), size)
        return decode(data, digest=digest)

    def steps(self, seqs: Sequence[int]) -> dict[int, Any]:
        """The values of succeeded steps, by seq. Raises KeyError for one that has none."""
        records = self._store.values(self._run_number, seqs)
        return {seq: self._value(records[seq]) for seq in dict.fromkeys(seqs)}

    def _value(self, value: Value) -> Any:
        if value.items is not None:
            first, count = value.items
            items = self.steps(range(first, first + count))
            return [items[seq] for seq in range(first, first + count)]
        if not value.digest:
            raise ArtifactMissing(
                "the value was not recorded (checkpoint=False); it is made again when a step needs it", digest=""
            )
        if value.inline is not None:
            return decode(value.inline, digest=value.digest)
        return self._artifact(value.digest, value.size)

    def call(self, call: bytes, inputs: Sequence[Input]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """An encoded call's arguments, with the values of its inputs. Raises the exception of one that failed."""
        seqs = [item.seq for item in inputs if isinstance(item, StepInput)]
        failures = self._store.failures(self._run_number, seqs) if seqs else {}
        for seq, (_, failure) in failures.items():
            raise exception_of(failure, f"step {seq}")
        values = self.steps(seqs) if seqs else {}
        found = [values[item.seq] if isinstance(item, StepInput) else self.payload(item) for item in inputs]
        args, kwargs = decode(call, found)
        return args, kwargs
