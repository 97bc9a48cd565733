"""The code that runs were started with: packs by their digest, the files in them by theirs, each once.

Files lie in the store, compressed, and not among the artifacts: a pack is written in one transaction instead of two syncs a
file, and whoever has the store has the code. (`docs/decisions/0013-code.md`)
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import CODE, CODE_FILE, CODE_PART, CODE_USED
from dagengine.storage.statements import Query

_ADD = Query(upsert(CODE, ("digest",), replace=False))
_ADD_FILE = Query(upsert(CODE_FILE, ("digest",), replace=False))
_ADD_PART = Query(upsert(CODE_PART, ("code", "file"), replace=False))
_USE = Query(upsert(CODE_USED, ("run",)))

_MANIFEST = Query(lambda: select(CODE.c.manifest).where(CODE.c.digest == bindparam("digest")))
_LIKE = Query(
    lambda: select(CODE.c.digest).where(CODE.c.digest >= bindparam("first"), CODE.c.digest < bindparam("last")).limit(5)
)
_ALL = Query(
    lambda: select(CODE.c.digest, CODE.c.entry, CODE.c.modules, CODE.c.size, CODE.c.created_at).order_by(
        CODE.c.created_at.desc(), CODE.c.digest
    )
)
_HAS_FILE = Query(lambda: select(CODE_FILE.c.digest).where(CODE_FILE.c.digest == bindparam("digest")))
_FILES = Query(
    lambda: (
        select(CODE_FILE.c.digest, CODE_FILE.c.data)
        .select_from(CODE_PART.join(CODE_FILE, CODE_PART.c.file == CODE_FILE.c.digest))
        .where(CODE_PART.c.code == bindparam("code"))
    )
)
_USED = Query(lambda: select(CODE_USED.c.code).where(CODE_USED.c.run == bindparam("run")))


class PackFacts(NamedTuple):
    """A pack in a listing. `size`: bytes of its modules, before compression."""

    digest: str
    entry: str
    modules: int
    size: int
    created_at: float


def has_pack(store: Store, digest: str) -> bool:
    return find_pack(store, digest) is not None


def find_pack(store: Store, digest: str) -> str | None:
    """The pack's manifest, as JSON."""
    row = store.side(lambda connection: _MANIFEST(connection, digest=digest).fetchone(), write=False)
    return None if row is None else str(row[0])


def packs_like(store: Store, prefix: str) -> list[str]:
    """Digests that begin so, at most five."""
    last = prefix + "g"  # behind all hexadecimal digits
    rows = store.side(lambda connection: _LIKE(connection, first=prefix, last=last).fetchall(), write=False)
    return [str(digest) for (digest,) in rows]


def all_packs(store: Store) -> list[PackFacts]:
    """The newest first."""
    rows = store.side(lambda connection: _ALL(connection).fetchall(), write=False)
    return [PackFacts(*row) for row in rows]


def add_pack(store: Store, facts: PackFacts, manifest: str, files: Mapping[str, bytes]) -> None:
    """Record a pack; all files that are not there yet, or none. Recording it twice, also at once, is harmless."""

    def missing(connection: Any) -> list[str]:
        return [digest for digest in files if _HAS_FILE(connection, digest=digest).fetchone() is None]

    new = [(digest, zlib.compress(files[digest])) for digest in store.side(missing, write=False)]

    def write(connection: Any) -> None:
        for digest, data in new:
            _ADD_FILE(connection, digest=digest, data=data)
        for digest in files:
            _ADD_PART(connection, code=facts.digest, file=digest)
        _ADD(
            connection,
            digest=facts.digest,
            entry=facts.entry,
            modules=facts.modules,
            size=facts.size,
            manifest=manifest,
            created_at=facts.created_at,
        )

    store.side(write)


def read_files(store: Store, digest: str) -> dict[str, bytes]:
    """The files of the pack, by their digests."""
    rows = store.side(lambda connection: _FILES(connection, code=digest).fetchall(), write=False)
    return {str(file): zlib.decompress(data) for file, data in rows}


def use_pack(store: Store, run_number: int, digest: str) -> None:
    """The run goes on with this pack, whatever it was started with."""
    store.side(lambda connection: _USE(connection, run=run_number, code=digest, at=time.time()))


def used_pack(store: Store, run_number: int) -> str | None:
    """The pack that the run was last told to go on with; None if it still has the one that it was started with."""
    row = store.side(lambda connection: _USED(connection, run=run_number).fetchone(), write=False)
    return None if row is None else str(row[0])
