"""A task's inputs, opened: bytes decoded, files mapped, objects read where they lie in the arena.

A file's mapping is shared by the values that are decoded from it, and lives as long as the last of them. The most
recent ones are kept for the next task, which often reads the same.

An object stays where it is as long as the task runs that reads it, and longer if this process *holds* it:

    opened ──▶ viewed (a value has its bytes) ──▶ its task ends ──▶ held: Hold is sent ──▶ last view gone ──▶ LetGo
                                              └─▶ gone before: nothing to tell

The end of a view may come at any moment, on any thread, inside of a garbage collection: it is only noted then, and told
with what is sent next, or when the worker has nothing to do. What an answer hands over is held from its arrival.

May import nothing of ours but errors, values and runtime.{protocol,worker_arena}.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from dagengine.errors import ArtifactDamaged, ArtifactMissing, InternalError, ObjectLost
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.worker_arena import WorkerArena
from dagengine.values import damaged, decode

KEPT: Final = 32
"""Mappings kept for the next tasks. They cost address space and a descriptor each, no memory that can't be evicted."""


class Inputs:
    """`arena`: None where a runtime has none. Thread-safe.

    used: an object was read or handed over, ever
    `noted`: called when a view ends, wherever that happens: it takes no lock.
    """

    def __init__(self, arena: WorkerArena | None = None, noted: Callable[[], None] = lambda: None) -> None:
        self.used = False
        self._arena = arena
        self._noted = noted
        self._lock = threading.Lock()
        self._mappings: OrderedDict[tuple[str, str], mmap.mmap] = OrderedDict()
        self._verified: set[tuple[str, str]] = set()
        self._gone: deque[ObjectId] = deque()  # views that have ended, and were not counted yet
        self._views: Counter[ObjectId] = Counter()
        self._fresh: set[ObjectId] = set()  # opened since the last `settle`
        self._holds: Counter[ObjectId] = Counter()
        self._handed: dict[TaskId | None, list[ObjectId]] = {}  # by answers, to be opened by whoever asked
        self._unwanted: deque[ObjectId] = deque()  # as `_gone`, of what was never opened
        self._owed: list[ObjectId] = []  # to be let go

    # ---- values -------------------------------------------------------------------------------

    def open(self, packed: Any, task: TaskId | None = None) -> Any:
        """The value of an input as `messages.pack_input` writes it.

        Raises ArtifactMissing, ArtifactDamaged or ObjectLost; else whatever unpickling raises.
        """
        if isinstance(packed, bytes):
            return decode(packed)
        if isinstance(packed, dict):
            return [self.open(item, task) for item in packed["items"]]
        if isinstance(packed[0], str):
            path, size, digest, verify = packed
            return decode(memoryview(self._map(path, size, digest, verify))[:size])
        offset, size, number = packed
        return self._read(offset, size, tuple(number), task)

    def _read(self, offset: int, size: int, number: ObjectId, task: TaskId | None) -> Any:
        if self._arena is None:
            raise InternalError(f"object {number} lies in an arena, and this process has none")
        self.used = True
        with self._lock:
            self._views[number] += 1
            self._fresh.add(number)
            handed = self._handed.get(task)
            if handed and number in handed:
                handed.remove(number)
                self._holds[number] += 1
        try:
            view = self._arena.read(offset, size, partial(self._view_ended, number))
        except BaseException:
            self._gone.append(number)
            raise
        try:
            return decode(view)
        except ArtifactDamaged:
            raise ObjectLost(f"the bytes of object {number} are damaged", objects=[list(number)]) from None

    def _map(self, path: str, size: int, digest: str, verify: bool) -> mmap.mmap:
        key = (path, digest)
        with self._lock:
            mapping = self._mappings.pop(key, None)
        if mapping is None:
            mapping = self._open(path, size, digest)
        if verify and key not in self._verified:
            with memoryview(mapping) as view:
                if hashlib.sha256(view[:size]).hexdigest() != digest:
                    raise damaged(digest)
            self._verified.add(key)
        with self._lock:
            self._mappings[key] = mapping
            if len(self._mappings) > KEPT:
                old, _ = self._mappings.popitem(last=False)
                self._verified.discard(old)
        return mapping

    def _open(self, path: str, size: int, digest: str) -> mmap.mmap:
        try:
            with open(path, "rb") as file:
                if file.seek(0, 2) != size:
                    raise damaged(digest)
                return mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        except FileNotFoundError:
            raise ArtifactMissing(
                f"the bytes of {digest[:12]} are gone: there is no file {path}", digest=digest
            ) from None

    # ---- what is held ---------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether there is anything to let go, sooner or later."""
        return bool(self._holds or self._unwanted or self._owed)

    def handed(self, objects: Sequence[ObjectId], task: TaskId | None) -> None:
        """An answer has handed these over, to be opened by `task`; what is not, is let go when the task has ended."""
        if objects:
            self.used = True
            with self._lock:
                self._handed.setdefault(task, []).extend(objects)

    def unwanted(self, objects: Sequence[ObjectId]) -> None:
        """An answer has handed these over, and nobody is left to open them. Takes no lock."""
        if objects:
            self.used = True
            self._unwanted += objects
            self._noted()

    def settle(self) -> list[ObjectId]:
        """What can be let go, once for each hold. What is told at the end of a task comes from `finish`."""
        if not self._gone and not self._unwanted:
            return []
        with self._lock:
            return self._settle()

    def finish(self, task: TaskId) -> tuple[list[ObjectId], list[ObjectId]]:
        """The task has ended: what is to be held from now on, and what can be let go."""
        with self._lock:
            self._owed += self._handed.pop(task, [])
            let_go = self._settle()
            hold = [number for number in self._fresh if self._views[number] > 0 and number not in self._holds]
            self._holds.update(hold)
            self._fresh.clear()
            return hold, let_go

    def _settle(self) -> list[ObjectId]:
        while self._gone:
            number = self._gone.popleft()
            self._views[number] -= 1
            if not self._views[number]:
                del self._views[number]
                self._owed += [number] * self._holds.pop(number, 0)
        while self._unwanted:
            self._owed.append(self._unwanted.popleft())
        let_go, self._owed = self._owed, []
        return let_go

    def _view_ended(self, number: ObjectId) -> None:
        self._gone.append(number)
        self._noted()
