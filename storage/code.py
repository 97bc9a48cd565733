"""The code that runs were started with: packs by their digest, the files in them by theirs, each once.

Files lie in the store, compressed, and not among the artifacts: a pack is written in one transaction instead of two syncs a
file, and whoever has the store has the code. (`docs/decisions/0013-code.md`)

A pack is stored before the run that names it, so a young one is never collected, and whoever is about to name an old one
*renews* it. The rows of files that a pack shares are locked both by who adds a pack and by who removes one, so that none
goes that somebody has just come to need.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Float, bindparam, delete, exists, select, update

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import CODE, CODE_FILE, CODE_PART, CODE_USED
from dagengine.storage.statements import Query, is_listed

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
_LOCK_FILE = Query(
    lambda: select(CODE_FILE.c.digest).where(CODE_FILE.c.digest == bindparam("digest")).with_for_update()
)
_RENEW = Query(
    lambda: update(CODE).where(CODE.c.digest == bindparam("digest")).values(created_at=bindparam("at", type_=Float))
)
_OLD = Query(lambda: select(CODE.c.digest, CODE.c.size).where(CODE.c.created_at < bindparam("before")))
_REMOVE = Query(
    lambda: delete(CODE).where(
        CODE.c.digest == bindparam("digest"),
        CODE.c.created_at < bindparam("before"),
        ~exists().where(CODE_USED.c.code == CODE.c.digest),
    )
)
_PARTS = Query(lambda: select(CODE_PART.c.file).where(CODE_PART.c.code == bindparam("code")).order_by(CODE_PART.c.file))
_REMOVE_PARTS = Query(lambda: delete(CODE_PART).where(CODE_PART.c.code == bindparam("code")))
_REMOVE_FILE = Query(
    lambda: delete(CODE_FILE).where(
        CODE_FILE.c.digest == bindparam("digest"), ~exists().where(CODE_PART.c.file == CODE_FILE.c.digest)
    )
)
_IN_USE = Query(lambda: select(CODE_USED.c.code))
_FILES = Query(
    lambda: (
        select(CODE_FILE.c.digest, CODE_FILE.c.data)
        .select_from(CODE_PART.join(CODE_FILE, CODE_PART.c.file == CODE_FILE.c.digest))
        .where(CODE_PART.c.code == bindparam("code"))
    )
)
_USED = Query(lambda: select(CODE_USED.c.run, CODE_USED.c.code).where(is_listed(CODE_USED.c.run, "seqs")))


class PackFacts(NamedTuple):
    """A pack in a listing. `size`: bytes of its modules, before compression. `created_at`: or when it was renewed."""

    digest: str
    entry: str
    modules: int
    size: int
    created_at: float


def has_pack(store: Store, digest: str) -> bool:
    return find_pack(store, digest) is not None


def find_pack(store: Store, digest: str) -> str | None:
    """The pack's manifest, as JSON."""
    row = next(iter(store.ask(_MANIFEST, digest=digest)), None)
    return None if row is None else str(row[0])


def packs_like(store: Store, prefix: str) -> list[str]:
    """Digests that begin so, at most five."""
    last = prefix + "g"  # behind all hexadecimal digits
    rows = store.ask(_LIKE, first=prefix, last=last)
    return [str(digest) for (digest,) in rows]


def all_packs(store: Store) -> list[PackFacts]:
    """The newest first."""
    rows = store.ask(_ALL)
    return [PackFacts(*row) for row in rows]


def add_pack(store: Store, facts: PackFacts, manifest: str, files: Mapping[str, bytes]) -> None:
    """Record a pack; all files that are not there yet, or none. Recording it twice, also at once, is harmless."""

    def missing(connection: Any) -> list[str]:
        return [digest for digest in files if _HAS_FILE(connection, digest=digest).fetchone() is None]

    new = {digest: zlib.compress(files[digest]) for digest in store.side(missing, write=False)}

    def write(connection: Any) -> None:
        for digest in sorted(files):
            _ADD_PART(connection, code=facts.digest, file=digest)
            if _LOCK_FILE(connection, digest=digest).fetchone() is None:
                _ADD_FILE(connection, digest=digest, data=new.get(digest) or zlib.compress(files[digest]))
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


def renew_pack(store: Store, digest: str, at: float) -> bool:
    """Somebody is about to name the pack. False if it is not there."""
    return bool(store.side(lambda connection: _RENEW(connection, digest=digest, at=at).rowcount))


def old_packs(store: Store, before: float) -> dict[str, int]:
    """Those that nobody has stored or renewed since: their sizes, by digest."""
    return dict(store.ask(_OLD, before=before))


def packs_gone_on_with(store: Store) -> set[str]:
    """Packs that runs went on with instead of the one that they were started with."""
    return store.side(lambda connection: {str(code) for (code,) in _IN_USE(connection)}, write=False)


def remove_pack(store: Store, digest: str, before: float) -> bool:
    """Remove the pack, with the files that no other one has, unless it was renewed since `before`, or is gone on with."""

    def remove(connection: Any) -> bool:
        if _REMOVE(connection, digest=digest, before=before).rowcount != 1:
            return False
        files = [file for (file,) in _PARTS(connection, code=digest).fetchall()]
        for file in files:
            _LOCK_FILE(connection, digest=file).fetchone()
        _REMOVE_PARTS(connection, code=digest)
        for file in files:
            _REMOVE_FILE(connection, digest=file)
        return True

    return store.side(remove)


def read_files(store: Store, digest: str) -> dict[str, bytes]:
    """The files of the pack, by their digests."""
    rows = store.ask(_FILES, code=digest)
    return {str(file): zlib.decompress(data) for file, data in rows}


def use_pack(store: Store, run_number: int, digest: str) -> None:
    """The run goes on with this pack, whatever it was started with."""
    store.side(lambda connection: _USE(connection, run=run_number, code=digest, at=time.time()))


def used_packs(store: Store, run_numbers: Sequence[int]) -> dict[int, str]:
    """The packs that these runs were last told to go on with: not of those that still have what they were started with."""
    return dict(store.ask(_USED, seqs=json.dumps(list(run_numbers)))) if run_numbers else {}


def used_pack(store: Store, run_number: int) -> str | None:
    """The pack that the run was last told to go on with; None if it still has the one that it was started with."""
    return used_packs(store, [run_number]).get(run_number)
