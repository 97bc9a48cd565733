"""SQL in workflows: a query as a step, its result an Arrow table, which is recorded like any value.

    trips = sql("SELECT * FROM trips WHERE month = :month", connection="warehouse", params={"month": 7})
    sql.execute("DELETE FROM trips WHERE month = :month", connection="warehouse", params={"month": 7})

A database is given by a URL without a password, or by the name of a connection, or by the id of one of Airflow's: what
these mean is found by the process that runs the step (`connections`), and is not recorded.

Rows are taken from the cursor in batches, and kept as Arrow only. May import arrow_types, connections, errors,
options, tasks and storage's module of SQL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from dagengine.arrow_types import arrow_type
from dagengine.connections import VARIABLE, checked_id, database
from dagengine.errors import BadArguments
from dagengine.options import Options
from dagengine.storage import external_sql
from dagengine.tasks import Task

if TYPE_CHECKING:
    from typing import Unpack

    import pyarrow

    from dagengine.tasks import Changes

BATCH_ROWS = 50_000
"""Rows that are Python objects at a time."""


class Sql:
    """`sql(...)` and `sql.execute(...)`: in a body a step, elsewhere done at once."""

    def __call__(
        self,
        query: str,
        *,
        url: str | None = None,
        connection: str | None = None,
        conn_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        **options: Unpack[Changes],
    ) -> pyarrow.Table:
        """The rows of a query. `params` are bound to its :names; a list stands for the parts of `IN :names`.

        connection: a name; url: instead of it, of a database without a password; conn_id: instead of these, the id of an
        Airflow connection, which is used through its hook. options: of the step, as a task's.
        """
        return _step(_QUERY, options)(query, _source(url, connection, conn_id), dict(params or {}))

    def execute(
        self,
        statement: str,
        *,
        url: str | None = None,
        connection: str | None = None,
        conn_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        **options: Unpack[Changes],
    ) -> int:
        """Run a statement and commit it; the number of rows that it changed.

        Its step is tried at least once: after a crash the statement may run again. Where that matters, write a task with
        `@task(transactional=…)`, whose changes commit with its record.
        """
        source = _source(url, connection, conn_id)
        return cast(int, _step(_EXECUTE, options)(statement, source, dict(params or {})))


def query_table(query: str, source: dict[str, str], params: dict[str, Any]) -> pyarrow.Table:
    """What a worker does for `sql`."""
    import pyarrow

    parts: list[pyarrow.Table] = []
    columns: external_sql.Columns = ()
    for columns, rows in external_sql.fetch(_database(source), query, params, BATCH_ROWS):
        if rows or not parts:
            parts.append(_table(columns, rows))
    try:
        return _told(pyarrow.concat_tables(parts, promote_options="permissive"), columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise BadArguments(f"a column has values of several types: cast it in the query ({error})") from None


def execute_statement(statement: str, source: dict[str, str], params: dict[str, Any]) -> int:
    """What a worker does for `sql.execute`."""
    return external_sql.execute(_database(source), statement, params)


_QUERY = Task(query_table, Options(name="sql"))
_EXECUTE = Task(execute_statement, Options(name="sql.execute"))


def _step(task: Task[..., Any], options: Changes) -> Task[..., Any]:
    return task.options(**options) if options else task


def _source(url: str | None, connection: str | None, conn_id: str | None) -> dict[str, str]:
    """What is recorded of where the database is."""
    if (url, connection, conn_id).count(None) != 2:
        raise BadArguments(
            'name the database: connection="warehouse", conn_id="warehouse", or url="dialect://user@host/database".'
        )
    if conn_id is not None:
        return {"conn_id": checked_id(conn_id)}
    if connection is not None:
        if not connection.isidentifier():
            raise BadArguments(f"connection={connection!r} has to be a name of letters, digits and underscores.")
        return {"connection": connection}
    assert url is not None
    if external_sql.has_password(url):
        raise BadArguments(
            f'the url holds a password, which would be recorded: set {VARIABLE}NAME to it, and say connection="name".'
        )
    return {"url": url}


def _database(source: dict[str, str]) -> external_sql.Database:
    if "url" in source:
        return source["url"]
    if "conn_id" in source:
        return database(source["conn_id"], airflow=True)
    return database(source["connection"], airflow=False)


def _told(table: pyarrow.Table, columns: external_sql.Columns) -> pyarrow.Table:
    """Columns without a value have the type that their values would have had, where the driver tells it."""
    import pyarrow

    for place, column in enumerate(columns):
        known = arrow_type(column)
        if known is not None and pyarrow.types.is_null(table.field(place).type):
            table = table.set_column(place, column.name, pyarrow.nulls(len(table), known))
    return table


def _table(names: external_sql.Columns, rows: Sequence[Sequence[Any]]) -> pyarrow.Table:
    import pyarrow

    columns = []
    for place, (name, *_) in enumerate(names):
        values = [_plain(row[place]) for row in rows]
        try:
            columns.append(pyarrow.array(values))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            raise BadArguments(f"column {name} has no Arrow type: cast it in the query ({error})") from None
    return pyarrow.Table.from_arrays(columns, names=[column.name for column in names])


def _plain(value: Any) -> Any:
    """What Arrow has no type for, as what it has one for."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):  # a document: its fields need not be those of the next row's
        return json.dumps(value, default=str)
    return value


sql = Sql()
