"""The side tables of the store in memory: a SQLite database that is in memory, too, made when it is first asked.

May import nothing of ours but modules of storage. SQLAlchemy is imported with the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property


@cache
def _schema() -> str:
    """What makes the tables, as one script: tests open many stores."""
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

    from dagengine.storage import side_schema  # noqa: F401 - its tables join METADATA
    from dagengine.storage.schema import METADATA

    tables = METADATA.sorted_tables
    made: list[ExecutableDDLElement] = [
        *(CreateTable(table) for table in tables),
        *(CreateIndex(index) for table in tables for index in sorted(table.indexes, key=lambda index: str(index.name))),
    ]
    return ";\n".join(str(statement.compile(dialect=sqlite.dialect())) for statement in made)


class MemorySide:
    """Used with the store's lock held."""

    @cached_property
    def connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.executescript(_schema())
        return connection

    @property
    def used(self) -> bool:
        """Whether anything can be in them."""
        return "connection" in vars(self)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed at the end, rolled back where something is raised."""
        connection = self.connection
        connection.execute("BEGIN")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Twice is harmless."""
        made = vars(self).pop("connection", None)
        if made is not None:
            made.close()
