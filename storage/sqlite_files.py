"""The database file: making it, knowing whose it is, connecting to it.

    no file, or an empty one   the schema is applied here and now, under a lock of the folder: of two processes that
                               open a new store at once, the second finds it made
    application id is ours     its revision must be the one of this code
    anything else              somebody else's: refused, and not touched

Invariants: the file is readable by its owner only, whatever the umask; nobody opens it but SQLite, because closing any
descriptor of a file drops all of the process's locks on it.

May import nothing of ours but errors and modules of storage. SQLAlchemy is imported for a new store only, Alembic for
an upgrade only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dagengine.errors import StoreError, StoreForeign, StoreNewer, StoreOutdated, StoreUnavailable
from dagengine.storage.revisions import APPLICATION_ID, CURRENT, REVISIONS
from dagengine.storage.sqlite_errors import BUSY_TIMEOUT, translated, url_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

CHECKPOINT_PAGES = 4_000
"""Pages of 4 KiB in the write-ahead log before it is brought into the database: 16 MiB. SQLite's own 1,000 syncs the
database four times as often, and copies a page that changes all the time four times as often."""

_PREPARED_STATEMENTS = 256  # kept by a connection: all of ours, in all of their sizes (sqlite_writes.py)


def connect(path: str) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_PREPARED_STATEMENTS,
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        # Statements that touch several rows note how to undo themselves: in memory, not in a file each.
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: str) -> None:
    """Make sure that `path` is a store of ours with the schema of this code; make it if it is not there.

    Raises StoreUnavailable, StoreForeign, StoreNewer or StoreOutdated.
    """
    _check_place(path)
    with translated(path):
        if _read_state(path) == "empty":
            with _folder_locked(path):
                _make_file(path)
                if _read_state(path) == "empty":
                    _create(path)
        state = _read_state(path)
    if state != CURRENT:
        raise _unfit(path, state)


def is_there(path: str) -> bool:
    """Whether there is a database that is not empty. Raises as `prepare`."""
    _check_place(path)
    with translated(path):
        return _read_state(path) != "empty"


def upgrade(path: str) -> tuple[str, str]:
    """Bring an older store to the schema of this code; returns the revisions before and after."""
    _check_place(path)
    with translated(path), _folder_locked(path):
        _make_file(path)
        before = _read_state(path)
        if before not in (*REVISIONS, "empty"):
            raise _unfit(path, before)
        if before != CURRENT:
            _migrate(path)
        return before, CURRENT


def backup(path: str, target: str) -> int:
    """Copy a store, as it is at one moment, to the file `target`, which must not be there; returns its size in bytes.

    Whole or not at all: it is written under another name, synced, and renamed. Raises StoreUnavailable or StoreFull.
    """
    unfinished = f"{target}.part"
    with translated(target):
        Path(unfinished).unlink(missing_ok=True)
        _make_file(unfinished)
        source, copy = connect(path), sqlite3.connect(unfinished)
        try:
            source.backup(copy, pages=1_000)  # at a time, so that nobody waits long
            copy.execute("PRAGMA journal_mode=DELETE")  # nothing is left beside the file
        finally:
            copy.close()
            source.close()
        descriptor = os.open(unfinished, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(unfinished, target)  # unlike a rename, it replaces nothing
        Path(unfinished).unlink()
        return Path(target).stat().st_size


# ---- knowing --------------------------------------------------------------------------------


def _check_place(path: str) -> None:
    """What SQLite would only call "unable to open database file"."""
    file, folder = Path(path), Path(path).parent
    if file.is_dir():
        raise StoreUnavailable(f"the store {path} is a directory: name a file in it", store=url_of(path))
    if not folder.exists():
        if not folder.parent.is_dir():
            raise StoreUnavailable(
                f"the store {path} can't be made: there is no folder {folder.parent}. Make it, or name another store",
                store=url_of(path),
            )
    elif not folder.is_dir():
        raise StoreUnavailable(f"the store {path} can't be made: {folder} is not a folder", store=url_of(path))


def _read_state(path: str) -> str:
    """The schema's revision, "empty", or "foreign"."""
    if not Path(path).exists():
        return "empty"
    connection = connect(path)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application == APPLICATION_ID:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(found[0])
        used = application or connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
        return "foreign" if used else "empty"
    finally:
        connection.close()


def _unfit(path: str, state: str) -> StoreError:
    url = url_of(path)
    if state == "foreign":
        return StoreForeign(f"{path} is the database of another application: name another store", store=url)
    if state in REVISIONS:
        return StoreOutdated(
            f"the store {path} has schema {state}, this dagengine needs {CURRENT}: run `dagengine db upgrade`",
            store=url,
        )
    return StoreNewer(
        f"the store {path} has schema {state}, this dagengine knows none after {CURRENT}: use a newer dagengine",
        store=url,
    )


# ---- making ---------------------------------------------------------------------------------


@contextmanager
def _folder_locked(path: str) -> Iterator[None]:
    """One process at a time makes or upgrades a store of this folder. The lock goes with the process."""
    folder = Path(path).parent
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)  # whatever the umask
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _no_access(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_file(path: str) -> None:
    """The empty file, private from its first moment: SQLite gives its other files the same mode."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise _no_access(path, error) from error
    try:
        os.fchmod(descriptor, 0o600)  # a umask may take away even the owner's rights
    finally:
        os.close(descriptor)


def _no_access(path: str, error: OSError) -> StoreUnavailable:
    reason = (error.strerror or str(error)).lower()
    return StoreUnavailable(
        f"the store {path} can't be made: {reason}. Make its folder writable, or name another store", store=url_of(path)
    )


def engine_of(path: str) -> Engine:
    """SQLAlchemy's view of the file, for what defines tables. Its transactions take the write lock at once."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    engine = create_engine("sqlite://", creator=lambda: connect(path), poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _create(path: str) -> None:
    """All tables of this code's schema at once. That the revisions lead to the same is what a test says."""
    from dagengine.storage import side_schema  # noqa: F401 - its tables join METADATA
    from dagengine.storage.schema import METADATA, VERSION

    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    with engine_of(path).begin() as made:
        METADATA.create_all(made)
        made.execute(VERSION.insert().values(version_num=CURRENT))
        made.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def _migrate(path: str) -> None:
    from alembic import command
    from alembic.config import Config

    from dagengine import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    with engine_of(path).begin() as upgraded:
        config.attributes["connection"] = upgraded
        command.upgrade(config, "head")
        upgraded.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
