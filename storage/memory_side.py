"""The side tables of the store in memory: a SQLite database that is in memory, too, made when it is first asked.

May import nothing of ours but modules of storage. SQLAlchemy is imported with the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property


class MemorySide:
    """Used with the store's lock held."""

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        from dagengine.storage import side_schema  # noqa: F401 - its tables join METADATA
        from dagengine.storage.schema import METADATA

        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        METADATA.create_all(create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool))
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed at the end, rolled back where something is raised."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Twice is harmless."""
        made = vars(self).pop("_connection", None)
        if made is not None:
            made.close()
