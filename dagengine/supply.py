"""Where the inputs of steps are: small values at hand or read from the store, large ones as files to map.

What comes from the store is held against its digest. On the engine's thread, but for `at_hand`, which a body's thread
may ask. May import errors, model, values and the interfaces of storage and runtime.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256

from dagengine.errors import ArtifactDamaged, ArtifactMissing, DagengineError
from dagengine.model import Input, PayloadInput, Value
from dagengine.runtime.protocol import FileInput, InlineInput, ListInput, TaskInput
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.values import damaged

READ_AHEAD = 1_000
"""Values read from the store at once: as fast as all, and what is read does not lie twice in memory for a wide gather."""

CACHE_ENTRIES = 16_384
CACHE_BYTES = 64 * 1024 * 1024
"""Of small values kept at hand for the steps that read them; what is not there is read from the store."""

Found = dict[int, TaskInput | DagengineError]
"""By seq: the input, or why it can't be had."""


class Supply:
    """The inputs of one run's steps. `must_verify`: whether an artifact's bytes are yet to be held against a digest."""

    def __init__(
        self, store: Store, artifacts: ArtifactStore, run_number: int, must_verify: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._run_number = run_number
        self._must_verify = must_verify
        self._cache: OrderedDict[int, InlineInput] = OrderedDict()
        self._cache_bytes = 0

    def at_hand(self, seq: int) -> bytes | None:
        """The step's encoded value, if it is small and was made or read lately."""
        cached = self._cache.get(seq)
        return None if cached is None else cached.data

    def remember(self, seq: int, data: bytes) -> InlineInput:
        """Keep a small value at hand for the steps that read it."""
        given = self._cache[seq] = InlineInput(data)
        self._cache_bytes += len(data)
        while self._cache_bytes > CACHE_BYTES or len(self._cache) > CACHE_ENTRIES:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= len(dropped.data)
        return given

    def of_steps(self, seqs: Iterable[int]) -> Found:
        """The values of these succeeded steps."""
        found: Found = {}
        missing = []
        for seq in seqs:
            cached = self._cache.get(seq)
            if cached is None:
                missing.append(seq)
            else:
                found[seq] = cached
        for start in range(0, len(missing), READ_AHEAD):
            some = missing[start : start + READ_AHEAD]
            values = self._store.values(self._run_number, some)
            for seq in some:
                try:
                    found[seq] = self._given(seq, values[seq])
                except (ArtifactMissing, ArtifactDamaged) as error:
                    found[seq] = self._of_step(seq, error)
        return found

    def _of_step(self, seq: int, error: ArtifactMissing | ArtifactDamaged) -> DagengineError:
        """The error, saying whose value it is."""
        [step] = self._store.steps(self._run_number, seqs=[seq])
        return type(error)(f"{error} (it is the value of {step.key})", **vars(error))

    def of_call(self, inputs: tuple[Input, ...], found: Found) -> tuple[TaskInput, ...]:
        """The inputs of one call, of whose steps the values were `found`. Raises what stands in the place of one."""
        return tuple(
            [
                self._file(item.digest, item.size) if isinstance(item, PayloadInput) else had(found[item.seq])
                for item in inputs
            ]
        )

    def of_state(self, state: Value) -> TaskInput:
        """A saved state of a stateful object. Raises ArtifactMissing or ArtifactDamaged."""
        if state.inline is None:
            return self._file(state.digest, state.size)
        if sha256(state.inline).hexdigest() != state.digest:
            raise damaged(state.digest)
        return InlineInput(state.inline)

    def _given(self, seq: int, value: Value) -> TaskInput:
        if value.inline is not None:
            if sha256(value.inline).hexdigest() != value.digest:
                raise damaged(value.digest)
            return self.remember(seq, value.inline)
        if value.items is None:
            return self._file(value.digest, value.size)
        first, count = value.items
        items = self.of_steps(range(first, first + count))
        return ListInput(tuple(had(items[first + index]) for index in range(count)))

    def _file(self, digest: str, size: int) -> FileInput:
        path = self._artifacts.local_path(digest, size)
        return FileInput(path, size, digest, verify=self._must_verify(digest))


def had(found: TaskInput | DagengineError) -> TaskInput:
    """The input. Raises why there is none."""
    if isinstance(found, DagengineError):
        raise found
    return found
