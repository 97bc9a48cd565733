"""Side tables: what is kept beside the record, away from its hot path. One implementation for all stores.

A statement on them is a `Query`, kept in a module of this folder with what is asked or written there. `Store.side` gives
a function a connection to call such queries with; a `SideWrite` names one, for a run's batch. Statements touch only
side tables (`side_schema`): the memory store has those, and no others, in SQL. What only stores in SQL do (`lifetime`,
`transfer`) goes through `Store.side` to the tables of the record as well.

May import nothing of ours but the interface and modules of storage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from dagengine.storage.writes import SideWrite

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Table

    from dagengine.storage.statements import Asked, Query

    Connection = sqlite3.Connection | Asked


@cache
def statement(name: str) -> Query:
    """The query that a `SideWrite` names as "module:NAME"."""
    module, _, attribute = name.partition(":")
    found: Query = getattr(importlib.import_module(f"dagengine.storage.{module}"), attribute)
    return found


def write_side(writes: Iterable[tuple[int, SideWrite]], connection: Connection) -> None:
    """Write (run number, write) in the transaction that is open. Raises ValueError for a row without a parameter."""
    for run, write in writes:
        query = statement(write.statement)
        for row in write.rows:
            try:
                query(connection, run=run, **row)
            except KeyError as missing:
                raise ValueError(f"{write.statement} is not given {missing}") from None


def upsert(table: Table, keys: Sequence[str], *, replace: bool = True) -> Callable[[], Any]:
    """What builds an INSERT of all columns, as parameters of their names. A row with the same `keys` is replaced, or,
    without `replace`, left as it is."""

    def build() -> Any:
        from sqlalchemy import bindparam
        from sqlalchemy.dialects.postgresql import insert  # SQLite's compiler says it in the same words

        names = [column.name for column in table.columns]
        made = insert(table).values({column: bindparam(column.name, type_=column.type) for column in table.columns})
        if not replace:
            return made.on_conflict_do_nothing(index_elements=list(keys))
        changed = {name: getattr(made.excluded, name) for name in names if name not in keys}
        return made.on_conflict_do_update(index_elements=list(keys), set_=changed)

    return build
