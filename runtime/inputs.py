"""A task's inputs, opened: bytes decoded, files mapped read-only.

A mapping is shared by the values that are decoded from it, and lives as long as the last of them. The most recent ones
are kept for the next task, which often reads the same.

May import nothing of ours but errors and values.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import OrderedDict
from typing import Any, Final

from dagengine.errors import ArtifactMissing
from dagengine.values import damaged, decode

KEPT: Final = 32
"""Mappings kept for the next tasks. They cost address space and a descriptor each, no memory that can't be evicted."""


class Inputs:
    def __init__(self) -> None:
        self._mappings: OrderedDict[tuple[str, str], mmap.mmap] = OrderedDict()
        self._verified: set[tuple[str, str]] = set()

    def open(self, packed: Any) -> Any:
        """The value of an input as `messages.pack_input` writes it.

        Raises ArtifactMissing or ArtifactDamaged; else whatever unpickling raises.
        """
        if isinstance(packed, bytes):
            return decode(packed)
        if isinstance(packed, dict):
            return [self.open(item) for item in packed["items"]]
        path, size, digest, verify = packed
        return decode(memoryview(self._map(path, size, digest, verify))[:size])

    def _map(self, path: str, size: int, digest: str, verify: bool) -> mmap.mmap:
        key = (path, digest)
        mapping = self._mappings.pop(key, None)
        if mapping is None:
            mapping = self._open(path, size, digest)
        if verify and key not in self._verified:
            with memoryview(mapping) as view:
                if hashlib.sha256(view[:size]).hexdigest() != digest:
                    raise damaged(digest)
            self._verified.add(key)
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
