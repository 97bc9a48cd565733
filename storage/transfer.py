"""A run's rows on their way from one store to another: all of them, as they are, but for the number of the run.

A run that is being imported can't be seen: its own row comes last. Until then its number is noted among the `removed`, so
that what an import leaves behind that was killed is cleared away as what is left of a removed run.

For stores in SQL. May import nothing of ours but errors, model and modules of storage.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Boolean, Integer, LargeBinary, Select, Table, bindparam, delete, insert, select

from dagengine.errors import StoreUnavailable
from dagengine.model import RunRecord
from dagengine.storage.interface import Store
from dagengine.storage.lifetime_notes import FORGET_REMOVED, NOTE_REMOVED, OF_RUNS
from dagengine.storage.lookup import run_exists
from dagengine.storage.memory import MemoryStore
from dagengine.storage.schema import ATTEMPT, DEFINITION, EDGE, EVENT, RUN, STATE_VERSION, STEP, UNSAVED_CALL
from dagengine.storage.statements import Query

PAGE = 500
"""Steps, or rows of other tables, that are read or written in one transaction."""

Row = dict[str, Any]

_run = bindparam("run", type_=Integer)
_NOT_TAKEN_ALONG = {"run": ("number", "owner", "batch"), "event": ("number",)}
_BY_SEQ = {STEP: "seq", EDGE: "child", ATTEMPT: "seq", EVENT: "number"}
"""What long tables are paged by."""

TABLES: dict[str, Table] = {
    table.name: table for table in (DEFINITION, STEP, EDGE, ATTEMPT, EVENT, STATE_VERSION, UNSAVED_CALL, *OF_RUNS)
}


def _columns(table: Table) -> list[str]:
    left_out = ("run", *_NOT_TAKEN_ALONG.get(table.name, ()))
    return [column.name for column in table.c if column.name not in left_out]


def _selected(table: Table) -> Select[Any]:
    first = table.c[_BY_SEQ[table]] if table in _BY_SEQ else next(iter(table.primary_key))
    found = select(first, *(table.c[name] for name in _columns(table))).where(table.c.run == _run)
    if table in _BY_SEQ:
        found = found.where(first > bindparam("after", type_=Integer)).limit(bindparam("limit", type_=Integer))
        found = found.order_by(first, *(key for key in table.primary_key if key.name not in {"run", first.name}))
    return found


_SELECT = {name: Query(lambda table=table: _selected(table)) for name, table in TABLES.items()}  # type: ignore[misc]
_INSERT = {
    name: Query(lambda table=table: insert(table).values(_given(table, ["run", *_columns(table)])))  # type: ignore[misc]
    for name, table in TABLES.items()
}
_SELECT_RUN = Query(lambda: select(*(RUN.c[name] for name in _columns(RUN))).where(RUN.c.number == _run))
_RUN_EXISTS = Query(lambda: select(RUN.c.number).where(RUN.c.id == bindparam("id")))
_INSERT_RUN = Query(lambda: insert(RUN).values(_given(RUN, ["number", *_columns(RUN)])))
_RESERVE = Query(lambda: insert(RUN).values(_given(RUN, _columns(RUN))).returning(RUN.c.number))
_RELEASE = Query(lambda: delete(RUN).where(RUN.c.number == _run))


def _given(table: Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: bindparam(name, type_=table.c[name].type) for name in names}


# ---- out --------------------------------------------------------------------------------------


def run_row(store: Store, run: RunRecord) -> Row:
    """The run's own row, without its number and owner."""
    _in_sql(store)
    found = store.side(lambda connection: _SELECT_RUN(connection, run=run.number).fetchone(), write=False)
    return dict(zip(_columns(RUN), found, strict=True))


def rows_of(store: Store, run_number: int) -> Iterator[tuple[str, list[Row]]]:
    """All other rows of the run, by table, in pages."""
    for name, table in TABLES.items():
        names = _columns(table)
        after: Any = -1
        while True:
            given = {"run": run_number} | ({"after": after, "limit": PAGE} if table in _BY_SEQ else {})

            def page(connection: Any, given: Row = given, query: Query = _SELECT[name]) -> list[tuple[Any, ...]]:
                return list(query(connection, **given).fetchall())

            rows = store.side(page, write=False)
            if table in _BY_SEQ and len(rows) == PAGE:
                rows = _whole(rows) or _all_of_one(store, name, run_number, rows[0][0])
            if rows:
                yield name, [dict(zip(names, row[1:], strict=True)) for row in rows]
            if table not in _BY_SEQ or not rows:
                break
            after = rows[-1][0]


def _whole(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Without the rows of the last step, which may go on behind the page."""
    last = rows[-1][0]
    return [row for row in rows if row[0] != last]


def _all_of_one(store: Store, name: str, run_number: int, first: int) -> list[tuple[Any, ...]]:
    """Of a step with more rows than fit on a page."""
    given = {"run": run_number, "after": first - 1, "limit": 2**31 - 1}

    def ask(connection: Any) -> list[tuple[Any, ...]]:
        found = []
        for row in _SELECT[name](connection, **given):
            if row[0] != first:
                break
            found.append(row)
        return found

    return store.side(ask, write=False)


# ---- in ---------------------------------------------------------------------------------------


class Arrival:
    """A run on its way into a store: `add` its rows, then `finish` it, with others. What is left undone is cleared away by `gc`."""

    def __init__(self, store: Store, row: Row, at: float) -> None:
        """Raises RunExists if its id is taken."""
        _in_sql(store)
        self._store = store
        self._row = row

        def reserve(connection: Any) -> int:
            _refuse_known(connection, row["id"])
            (number,) = _RESERVE(connection, **row).fetchone()
            _RELEASE(connection, run=number)  # a number is never given twice
            NOTE_REMOVED(connection, run=number, id="", at=at)
            return int(number)

        self._number = store.side(reserve)

    def add(self, table: str, rows: Iterable[Row]) -> None:
        """Write rows of one table, in one transaction."""

        def write(connection: Any) -> None:
            for row in rows:
                _INSERT[table](connection, run=self._number, **row)

        self._store.side(write)

    def publish(self, connection: Any) -> None:
        """The run is there when the transaction is done. Raises RunExists if its id has been taken meanwhile."""
        _refuse_known(connection, self._row["id"])
        _INSERT_RUN(connection, number=self._number, **self._row)
        FORGET_REMOVED(connection, run=self._number)


def finish(store: Store, arrivals: Sequence[Arrival]) -> None:
    """The runs are there, all of them or none. Raises RunExists."""

    def publish(connection: Any) -> None:
        for arrival in arrivals:
            arrival.publish(connection)

    store.side(publish)


def _refuse_known(connection: Any, run_id: str) -> None:
    if _RUN_EXISTS(connection, id=run_id).fetchone() is not None:
        raise run_exists(run_id)


def _in_sql(store: Store) -> None:
    if isinstance(store, MemoryStore):
        raise StoreUnavailable("memory: keeps no rows to move: name the store with --store", store=store.url)


# ---- as text ------------------------------------------------------------------------------------


def row_text(row: Row) -> str:
    """One line of JSON; bytes as {"base64": …}."""
    return json.dumps(row, default=lambda data: {"base64": base64.b64encode(data).decode()}, separators=(",", ":"))


def row_of(table: str, text: str) -> Row:
    """Raises ValueError for what is not a row of that table."""
    row = json.loads(text)
    known = RUN if table == "run" else TABLES[table]
    if not isinstance(row, dict) or set(row) != set(_columns(known)):
        raise ValueError(f"not a row of {table}")
    for name, value in row.items():
        kind = known.c[name].type
        if isinstance(value, dict):
            if not isinstance(kind, LargeBinary):
                raise ValueError(f"not a row of {table}")
            row[name] = base64.b64decode(value["base64"], validate=True)
        elif isinstance(kind, Boolean) and value is not None:
            row[name] = bool(value)  # numbers, where they come from SQLite
    return row
