"""A store on the session's server that one test after the other has for itself, empty.

Making the tables takes a tenth of a second, which is more than most tests of a store take; deleting the few rows that a
test leaves takes a millisecond or two. (TRUNCATE makes new files for each table and index: twenty times as long.)
"""

from __future__ import annotations

import functools

from dagengine.storage.postgres import PostgresStore
from tests.postgres.server import fresh_schema, shared


def emptied_schema() -> str:
    """The schema of this test process, with the tables of a new store. Who had it before has closed its store."""
    schema, emptying = _made()
    shared().run(emptying)
    return schema


@functools.cache
def _made() -> tuple[str, str]:
    """The schema, and the statements that empty it."""
    schema, server = fresh_schema(), shared()
    PostgresStore(server.url(schema)).close()
    found = server.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")
    tables = [f'{schema}."{name}"' for (name,) in found if name != "alembic_version"]
    sequences = server.run(f"SELECT sequencename FROM pg_sequences WHERE schemaname = '{schema}'")
    statements = [
        "BEGIN",
        f"LOCK TABLE {', '.join(tables)}",  # until what a dead engine was still about is over
        "SET LOCAL session_replication_role = replica",  # foreign keys need no order
        *(f"DELETE FROM {table}" for table in tables),
        *(f"ALTER SEQUENCE {schema}.{name} RESTART" for (name,) in sequences),
        "COMMIT",
    ]
    return schema, "; ".join(statements)
