"""Notes on the lifetime of runs, in side tables: which are removed, whose values have expired, which are pinned.

Functions of any store. May import nothing of ours but model, the interface and modules of storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Integer, Text, bindparam, delete, literal_column, select, update

from dagengine.model import RunRecord
from dagengine.storage.lookup import run_expired
from dagengine.storage.schema import METADATA
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import EXPIRED, PIN, RECORD, REMOVED
from dagengine.storage.statements import Query

T = TypeVar("T")


class Store(Protocol):
    """What of a store is needed here."""

    def side(self, work: Callable[[Any], T], write: bool = True) -> T: ...


SIDE_TABLES = tuple(table for table in METADATA.sorted_tables if table not in RECORD)

OF_RUNS = tuple(
    table for table in SIDE_TABLES if next(iter(table.primary_key)).name == "run" and table not in (REMOVED, PIN)
)
"""Side tables whose rows belong to a run, and go with it. (Others may name a run, and outlive it.)"""

_run = bindparam("run", type_=Integer)

NOTE_REMOVED = Query(upsert(REMOVED, ("run",)))
REMOVED_ID = Query(lambda: select(REMOVED.c.run).where(REMOVED.c.id == bindparam("id")))
NEXT_REMOVED = Query(lambda: select(REMOVED.c.run).order_by(REMOVED.c.run).limit(1))
FORGET_REMOVED = Query(lambda: delete(REMOVED).where(REMOVED.c.run == _run))
NOTE_EXPIRED = Query(upsert(EXPIRED, ("run",)))
_IS_EXPIRED = Query(lambda: select(EXPIRED.c.run).where(EXPIRED.c.run == _run))
_NEXT_EXPIRED = Query(lambda: select(EXPIRED.c.run).where(EXPIRED.c.cleared == literal_column("0")).limit(1))
_EXPIRED_RUNS = Query(lambda: select(EXPIRED.c.run, EXPIRED.c.at))
_CLEARED = Query(lambda: update(EXPIRED).where(EXPIRED.c.run == _run).values(cleared=literal_column("1")))
_PIN = Query(upsert(PIN, ("run",)))
_UNPIN = Query(lambda: delete(PIN).where(PIN.c.run == _run))
_PINS = Query(lambda: select(PIN.c.run, PIN.c.at, PIN.c.by, PIN.c.why).order_by(PIN.c.run))

DELETE_OF_RUN = tuple(
    Query(lambda table=table: delete(table).where(table.c.run == _run))  # type: ignore[misc]
    for table in (*OF_RUNS, PIN)
)

_NAMING = tuple(
    Query(lambda table=table: select(table.c.digest).where(table.c.value.is_(None)))  # type: ignore[misc]
    for table in SIDE_TABLES
    if "digest" in table.c and "value" in table.c and isinstance(table.c.digest.type, Text)
)
"""A side table with the `digest` of a `value` names an artifact where the value is not in the row."""


class Pin(NamedTuple):
    """That a run is to be kept."""

    run: int
    at: float
    by: str
    why: str


def pin(store: Store, run_number: int, at: float, by: str, why: str) -> None:
    """Keep the run: nothing of it is collected."""
    store.side(lambda connection: _PIN(connection, run=run_number, at=at, by=by, why=why) and None)


def unpin(store: Store, run_number: int) -> None:
    """The run may be collected, as any other."""
    store.side(lambda connection: _UNPIN(connection, run=run_number) and None)


def pins(store: Store) -> dict[int, Pin]:
    """By run number."""
    found = store.side(lambda connection: _PINS(connection).fetchall(), write=False)
    return {row[0]: Pin(*row) for row in found}


def forget_run(store: Store, run_number: int) -> None:
    """Nothing is left of the run in any side table."""

    def forget(connection: Any) -> None:
        for query in DELETE_OF_RUN:
            query(connection, run=run_number)

    store.side(forget)


def is_expired(connection: Any, run_number: int) -> bool:
    """Whether the run's values may be gone: it can't go on, and nothing can be shared of it."""
    return _IS_EXPIRED(connection, run=run_number).fetchone() is not None


def refuse_expired(store: Store, run: RunRecord) -> None:
    """Raises RunConflict if the run's values may be gone."""
    if store.side(lambda connection: is_expired(connection, run.number), write=False):
        raise run_expired(run.id)


def next_expired(store: Store) -> int | None:
    """A run that has expired, and of whose values something may be left."""
    found = store.side(lambda connection: _NEXT_EXPIRED(connection).fetchone(), write=False)
    return None if found is None else int(found[0])


def note_cleared(store: Store, run_number: int) -> None:
    """Nothing is left of the values of an expired run."""
    store.side(lambda connection: _CLEARED(connection, run=run_number) and None)


def expired_runs(store: Store) -> dict[int, float]:
    """Numbers of the runs whose values may be gone, and since when."""
    return store.side(lambda connection: dict(_EXPIRED_RUNS(connection).fetchall()), write=False)


def payloads_of_side_tables(store: Store) -> set[str]:
    """The digests of all artifacts that side tables name."""

    def ask(connection: Any) -> set[str]:
        return {digest for query in _NAMING for (digest,) in query(connection) if digest}

    return store.side(ask, write=False)
