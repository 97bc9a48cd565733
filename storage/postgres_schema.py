"""The store's tables in a PostgreSQL database: made when they are not there, known by a comment, brought up to date.

They have a schema of their own, so that a database may serve others, too. A schema with somebody else's tables is not
touched. Making and upgrading is one transaction under a lock of the database: of two processes that open a new store at
once, the second finds it made; and one that is killed has done nothing.

May import nothing of ours but errors and modules of storage. SQLAlchemy is imported for a new store only, Alembic for an
upgrade only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from dagengine.errors import StoreError, StoreForeign, StoreNewer, StoreOutdated, StoreUnavailable
from dagengine.storage.postgres_connections import Link
from dagengine.storage.postgres_errors import one_line, translate
from dagengine.storage.postgres_url import Target
from dagengine.storage.revisions import CURRENT, REVISIONS

if TYPE_CHECKING:
    from sqlalchemy import Connection

MARK = "a store of dagengine"
"""The comment of the table `run`."""

_STATE = """
    SELECT obj_description(to_regclass(%(table)s), 'pg_class'),
           (SELECT count(*) FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
            WHERE space.nspname = %(schema)s)
"""


class NothingThere(Exception):
    """There are no tables, and none were to be made."""


def prepare(link: Link, target: Target, make: bool = True) -> None:
    """Make sure that the tables are those of this code; if there are none, make them, or raise NothingThere. Raises our
    errors."""
    with _told(target):
        state = read_state(link, target)
        if state == "empty" and not make:
            raise NothingThere
        if state == "empty":
            with _alone(target) as connection:
                if read_state(link, target) == "empty":
                    _create(connection)
            state = read_state(link, target)
    if state != CURRENT:
        raise _unfit(target, state)


def upgrade(link: Link, target: Target) -> tuple[str, str]:
    """Bring an older store to the schema of this code; returns the revisions before and after."""
    with _told(target):
        before = read_state(link, target)
        if before not in (*REVISIONS, "empty"):
            raise _unfit(target, before)
        if before != CURRENT:
            with _alone(target) as connection:
                if read_state(link, target) != CURRENT:
                    _migrate(connection)
        return before, CURRENT


def read_state(link: Link, target: Target) -> str:
    """The schema's revision, "empty", or "foreign"."""
    given = {"table": f'"{target.schema}".run', "schema": target.schema}
    row = link.raw.execute(_STATE, given).fetchone()
    assert row is not None
    comment, relations = row
    if comment == MARK:
        found = link.raw.execute(f'SELECT version_num FROM "{target.schema}".alembic_version'.encode()).fetchone()
        return str(found[0]) if found else "foreign"
    return "foreign" if relations else "empty"


def _unfit(target: Target, state: str) -> StoreError:
    url = target.url
    if state == "foreign":
        return StoreForeign(
            f"schema {target.schema} of {url} holds the tables of another application: name another with ?schema=",
            store=url,
        )
    if state in REVISIONS:
        return StoreOutdated(
            f"the store {url} has schema {state}, this dagengine needs {CURRENT}: run `dagengine db upgrade`", store=url
        )
    return StoreNewer(
        f"the store {url} has schema {state}, this dagengine knows none after {CURRENT}: use a newer dagengine",
        store=url,
    )


@contextmanager
def _told(target: Target) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        if "for database" not in str(error):  # a schema is there, and not for this user
            raise translate(error, target) from None
        raise StoreUnavailable(
            f"the store {target.url} refuses this user: {one_line(error, target)}. Let an administrator "
            f"CREATE SCHEMA {target.schema} AUTHORIZATION the user, or name another with ?schema=",
            store=target.url,
        ) from None
    except psycopg.Error as error:
        raise translate(error, target) from None


@contextmanager
def _alone(target: Target) -> Iterator[Connection]:
    """SQLAlchemy's view of a transaction that no other of this kind runs beside, and that finds our schema's tables."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    def connection_of_its_own() -> Any:
        raw = Link(target).raw
        raw.autocommit = False
        return raw

    engine = create_engine("postgresql+psycopg://", creator=connection_of_its_own, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({zlib.crc32(MARK.encode())})")
            there = connection.exec_driver_sql(
                "SELECT 1 FROM pg_namespace WHERE nspname = %(name)s", {"name": target.schema}
            ).first()
            if there is None:
                connection.exec_driver_sql(f'CREATE SCHEMA "{target.schema}"')
            connection.exec_driver_sql(f'SET LOCAL search_path TO "{target.schema}"')
            yield connection
            connection.exec_driver_sql(f"COMMENT ON TABLE run IS '{MARK}'")
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    finally:
        engine.dispose()


def _create(connection: Connection) -> None:
    """All tables of this code's schema at once. That the revisions lead to the same is what a test says."""
    from dagengine.storage import side_schema  # noqa: F401 - its tables join METADATA
    from dagengine.storage.schema import METADATA, VERSION

    METADATA.create_all(connection)
    connection.execute(VERSION.insert().values(version_num=CURRENT))


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    from dagengine import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
