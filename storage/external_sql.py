"""Statements on any database that SQLAlchemy knows: what `dagengine.sql` asks, outside of the store.

Parameters are bound, never formatted. One connection for each statement: a worker may be gone before the next one. The
database is given by its URL, or by what makes an engine of SQLAlchemy's for it, which is disposed of here.

May import nothing of ours but errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dagengine.errors import BadArguments, SqlFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Engine, TextClause


class Column(NamedTuple):
    """A column of a result. type: of PostgreSQL, the number of its type; other drivers tell none, or not reliably."""

    name: str
    type: int | None = None
    precision: int | None = None
    scale: int | None = None
    zone: str = "UTC"


Columns = tuple[Column, ...]
Database: TypeAlias = "str | Callable[[], Engine]"


def has_password(url: str) -> bool:
    """Whether the URL holds a secret. Raises BadArguments if it is none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise BadArguments("the url is none that SQLAlchemy knows: write it as dialect://user@host/database") from None
    secret = any(word in name.lower() for name in parsed.query for word in ("password", "token", "secret", "key"))
    return parsed.password is not None or secret


def fetch(
    database: Database, query: str, params: Mapping[str, Any], rows: int
) -> Iterator[tuple[Columns, Sequence[Sequence[Any]]]]:
    """The columns and, at most so many at a time, the rows of the result; at least once, also if there is no row.

    Nothing is committed. Raises SqlFailed.
    """
    with _connected(database) as connection:
        result = connection.execution_options(stream_results=True, max_row_buffer=rows).execute(_bound(query, params))
        if not result.returns_rows:
            raise BadArguments("the statement returns no rows: give it to sql.execute, which commits it")
        columns = _columns(connection, result)
        yield columns, ()
        for part in result.partitions(rows):
            yield columns, part


def _columns(connection: Connection, result: CursorResult[Any]) -> Columns:
    told: Sequence[Any] = ()
    if connection.dialect.name == "postgresql":
        told = getattr(result.cursor, "description", None) or ()
    zone = str(getattr(getattr(connection.connection.dbapi_connection, "info", None), "timezone", None) or "UTC")
    names = tuple(result.keys())
    if len(told) != len(names):
        return tuple(map(Column, names))
    return tuple(Column(name, one[1], one[4], one[5], zone) for name, one in zip(names, told, strict=True))


def execute(database: Database, statement: str, params: Mapping[str, Any]) -> int:
    """Run the statement, commit, and return the number of rows that it changed (-1: the database does not say)."""
    with _connected(database) as connection, connection.begin():
        return int(connection.execute(_bound(statement, params)).rowcount)


def _bound(query: str, params: Mapping[str, Any]) -> TextClause:
    from sqlalchemy import bindparam, text

    clause = text(query)
    wanted = set(clause._bindparams)
    if wanted != set(params):
        missing, unknown = sorted(wanted - set(params)), sorted(set(params) - wanted)
        said = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (unknown, "not in it")) if names]
        raise BadArguments(f"the parameters do not fit the query: {'; '.join(said)}. Write each as :name in the query.")
    return clause.bindparams(
        *(
            bindparam(name, list(value), expanding=True)
            if isinstance(value, (list, tuple, set, frozenset))
            else bindparam(name, value)
            for name, value in params.items()
        )
    )


@contextmanager
def _connected(database: Database) -> Iterator[Connection]:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        engine = create_engine(database, poolclass=NullPool) if isinstance(database, str) else database()
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise BadArguments(f"the driver of this database is not installed: {error.name}. Install it.") from None
    except SQLAlchemyError as error:
        # The text of the driver alone: SQLAlchemy's has the parameters, which may be secret.
        said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        raise SqlFailed(f"the database refused: {' '.join(str(said).split())[:500]}") from None
