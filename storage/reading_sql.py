"""The store's tables for SQL of other programs: a driver's connection that can only read, and what SQLAlchemy makes one from.

Whatever is asked, what is recorded stays: SQLite's file is opened read-only, PostgreSQL's sessions refuse to write, and find the
store's tables without their schema's name. Nothing here makes or upgrades a store.

May import nothing of ours but errors and modules of storage.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from dagengine.errors import StoreUnavailable
from dagengine.storage.opening import local_path, need_driver
from dagengine.storage.postgres_url import Target, is_postgres, parse
from dagengine.storage.revisions import CURRENT

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

READ_ONLY = "-c search_path={schema} -c default_transaction_read_only=on"


class Found(NamedTuple):
    """Of a store that is there. `url`: without secrets."""

    url: str
    revision: str
    runs: int


def connect(url: str) -> Any:
    """A DB-API connection of `sqlite3` or `psycopg`. Raises StoreUnavailable, also for a store that is not there."""
    if is_postgres(url):
        return _connect_postgres(parse(url))
    import sqlite3

    from dagengine.storage.sqlite_errors import translated

    path = _file(url)
    if not Path(path).exists():
        raise StoreUnavailable(f"there is no store {path} yet. The first run makes it.", store=f"sqlite:///{path}")
    with translated(path):
        return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)


def sqlalchemy_url(url: str) -> URL:
    """What SQLAlchemy makes an engine from, for the same. Secrets included. Raises StoreUnavailable."""
    from sqlalchemy.engine import URL

    if not is_postgres(url):
        return URL.create("sqlite", database=f"file:{quote(_file(url))}", query={"mode": "ro", "uri": "true"})
    target = parse(url)
    rest = dict(target.libpq)
    user, password, database = (rest.pop(name, None) for name in ("user", "password", "dbname"))
    query = {**rest, "options": _options(target)}
    return URL.create("postgresql+psycopg", username=user, password=password, database=database, query=query)


def look(url: str) -> Found | None:
    """What store there is; None if the first run is to make it. Raises StoreError, as opening it would."""
    from dagengine.storage.opening import open_existing

    store = open_existing(url)
    if store is None:
        return None
    store.close()
    connection = connect(url)
    try:
        cursor = connection.cursor()
        (runs,) = cursor.execute("SELECT count(*) FROM run").fetchone()
    finally:
        connection.close()
    return Found(store.url, CURRENT, int(runs))


def _file(url: str) -> str:
    path = local_path(url)
    if path is None:
        raise StoreUnavailable("a store in memory is its own process's alone. Name a file or a server.", store=url)
    return path


def _connect_postgres(target: Target) -> Any:
    need_driver()
    import psycopg

    from dagengine.storage.postgres_errors import not_connected

    given = {"connect_timeout": "10", "application_name": "dagengine", **target.libpq, "options": _options(target)}
    try:
        return psycopg.connect(**given)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise not_connected(error, target) from None


def _options(target: Target) -> str:
    return f"{target.libpq.get('options', '')} {READ_ONLY.format(schema=target.schema)}".strip()
