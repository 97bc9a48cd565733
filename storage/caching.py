"""Values that runs share: one entry for each key, with a value, or with a claim of the step that computes it.

`mark` says what an entry is: "RUN/TOKEN/SEQ" is a claim, which is void once that run is not worked on under that token;
"=…" has a value. An entry changes only from the mark that was seen to the one that is written, so of two that claim
the same key one finds out. A value here refers to its artifact by itself: it outlives the run that made it.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Text, bindparam, delete, literal_column, null, select, update

from dagengine.model import Value
from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import CACHE_ENTRY, CACHE_USE
from dagengine.storage.statements import Query
from dagengine.storage.writes import SideWrite

_ENTRY = CACHE_ENTRY.c
NEAREST_OF = 50
"""Of the latest entries of a task: which of them is nearest to a call that was not found, is looked for among these."""


class CacheEntry(NamedTuple):
    key: str
    task: str
    scope: str
    mark: str
    of_run: str  # the id of the run that computed the value, or does
    seq: int
    parts: dict[str, str]  # of the key: what it was made of -> its digest
    at: float
    digest: str | None
    size: int | None
    inline: bytes | None

    @property
    def value(self) -> Value | None:
        return None if self.digest is None else Value(self.digest, self.size or 0, self.inline)


class CacheUse(NamedTuple):
    """What the cache said to a step. `outcome`: "hit", "miss", "refresh" or "uncacheable"; `why`: for people."""

    key: str
    outcome: str
    why: str


_COLUMNS = (
    _ENTRY.key,
    _ENTRY.task,
    _ENTRY.scope,
    _ENTRY.mark,
    _ENTRY.of_run,
    _ENTRY.seq,
    _ENTRY.parts,
    _ENTRY.at,
    _ENTRY.digest,
    _ENTRY.size,
    _ENTRY.value,
)
_FIND = Query(lambda: select(*_COLUMNS).where(_ENTRY.key == bindparam("key")))
_OF_TASK = Query(
    lambda: (
        select(*_COLUMNS[:-1], null().label("value"))
        .where(_ENTRY.task == bindparam("task"), _ENTRY.digest.is_not(None))
        .order_by(_ENTRY.at.desc())
        .limit(NEAREST_OF)
    )
)
_ALL = Query(lambda: select(*_COLUMNS[:-1], null().label("value")).order_by(_ENTRY.task, _ENTRY.at))


def _claim() -> Any:
    from sqlalchemy.dialects.postgresql import insert

    names = ("key", "task", "scope", "mark", "of_run", "seq", "parts", "at")
    made = insert(CACHE_ENTRY).values({name: bindparam(name, type_=CACHE_ENTRY.c[name].type) for name in names})
    changed = {name: getattr(made.excluded, name) for name in names[1:]} | dict.fromkeys(
        ("digest", "size", "value"), null()
    )
    return made.on_conflict_do_update(index_elements=["key"], set_=changed, where=_ENTRY.mark == bindparam("seen"))


_CLAIM = Query(_claim)
KEEP = Query(
    lambda: (
        update(CACHE_ENTRY)
        .where(_ENTRY.key == bindparam("of_key"), _ENTRY.mark == bindparam("claim"))
        .values(
            mark=literal_column("'='", Text) + bindparam("claim", type_=Text),
            digest=bindparam("new_digest"),
            size=bindparam("new_size"),
            value=bindparam("new_value"),
            at=bindparam("new_at"),
        )
    )
)
LET_GO = Query(lambda: delete(CACHE_ENTRY).where(_ENTRY.key == bindparam("of_key"), _ENTRY.mark == bindparam("claim")))
_REMOVE = Query(lambda: delete(CACHE_ENTRY).where(_ENTRY.key == bindparam("key"), _ENTRY.mark == bindparam("seen")))
USED = Query(upsert(CACHE_USE, ("run", "seq")))
_USE = Query(
    lambda: select(CACHE_USE.c.key, CACHE_USE.c.outcome, CACHE_USE.c.why).where(
        CACHE_USE.c.run == bindparam("run"), CACHE_USE.c.seq == bindparam("seq")
    )
)


def _entry(row: Sequence[Any]) -> CacheEntry:
    key, task, scope, mark, of_run, seq, parts, at, digest, size, value = row
    inline = None if value is None else bytes(value)
    return CacheEntry(key, task, scope, mark, of_run, seq, json.loads(parts), at, digest, size, inline)


def find(store: Store, keys: Iterable[str]) -> dict[str, CacheEntry]:
    def ask(connection: Any) -> list[Any]:
        return [row for key in dict.fromkeys(keys) if (row := _FIND(connection, key=key).fetchone()) is not None]

    return {entry.key: entry for entry in map(_entry, store.side(ask, write=False))}


def of_task(store: Store, task: str) -> list[CacheEntry]:
    """The latest values of the task's, without their bytes."""
    return [_entry(row) for row in store.ask(_OF_TASK, task=task)]


def entries(store: Store) -> list[CacheEntry]:
    """All of them, without their bytes."""
    return [_entry(row) for row in store.ask(_ALL)]


class Claimed(NamedTuple):
    """A claim to be made. `seen`: the mark of the entry that it replaces; "": there was none."""

    entry: CacheEntry
    seen: str


def claim(store: Store, claims: Sequence[Claimed]) -> set[str]:
    """Make the claims that nobody was faster with; their keys. May be done again after a lost answer."""

    def work(connection: Any) -> set[str]:
        made = set()
        for wanted, seen in claims:
            row = wanted._asdict()
            row = {name: row[name] for name in ("key", "task", "scope", "mark", "of_run", "seq", "at")}
            _CLAIM(connection, **row, parts=json.dumps(wanted.parts), seen=seen)
            found = _FIND(connection, key=wanted.key).fetchone()
            if found is not None and found[3] == wanted.mark:
                made.add(wanted.key)
        return made

    return store.side(work)


def remove(store: Store, removed: Sequence[CacheEntry]) -> int:
    """Remove entries that are as they were seen; their number."""
    return store.side(lambda c: sum(_REMOVE(c, key=entry.key, seen=entry.mark).rowcount for entry in removed))


def used(seq: int, key: str, outcome: str, why: str) -> SideWrite:
    """The write that says what the cache said to step `seq`."""
    return SideWrite("caching:USED", ({"seq": seq, "key": key, "outcome": outcome, "why": why},))


def use(store: Store, run_number: int, seq: int) -> CacheUse | None:
    row = next(iter(store.ask(_USE, run=run_number, seq=seq)), None)
    return None if row is None else CacheUse(*row)
