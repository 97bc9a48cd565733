"""From what a user writes to a store: URLs and paths. Light to import; each kind of store is loaded when it is opened.

    sqlite:///home/me/runs.db    this file; four slashes are taken as three
    runs.db, /home/me/runs/      a file, or `store.db` in an existing folder or one named with a slash at its end
    postgresql://me@db/runs      a database of a server (postgres_url.py)
    memory:                      nothing is kept

May import nothing of ours but errors, the interface and, when needed, the stores.
"""

from __future__ import annotations

import re
from pathlib import Path

from dagengine.errors import StoreUnavailable, StoreUnsupported
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.storage.postgres_url import is_postgres

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # a file that is named so can still be given as ./name:…
_SUPPORTED = "supported are sqlite:///path/store.db, a path, postgresql://user@host/database, and memory:"


def open_store(url: str) -> Store:
    """Open the store, which is made if it is not there. Raises StoreUnavailable and the other `StoreError`s."""
    if is_postgres(url):
        need_driver()
        from dagengine.storage.postgres import PostgresStore

        return PostgresStore(url)
    path = local_path(url)
    if path is None:
        from dagengine.storage.memory import MemoryStore

        return MemoryStore()
    from dagengine.storage.sqlite import SqliteStore

    return SqliteStore(path)


def open_existing(url: str) -> Store | None:
    """Open the store, if it is there: nothing is made. Raises as `open_store`."""
    if is_postgres(url):
        need_driver()
        from dagengine.storage.postgres import PostgresStore
        from dagengine.storage.postgres_schema import NothingThere

        try:
            return PostgresStore(url, make=False)
        except NothingThere:
            return None
    path = local_path(url)
    if path is not None:
        from dagengine.storage.sqlite_files import is_there

        if not is_there(path):
            return None
    return open_store(url)


def upgrade(url: str) -> tuple[str, str]:
    """Bring the store's schema up to date; returns its revisions before and after ("empty": it was new)."""
    if is_postgres(url):
        need_driver()
        from dagengine.storage.postgres import upgrade_store

        return upgrade_store(url)
    path = local_path(url)
    if path is None:
        raise StoreUnavailable("memory: has no schema to upgrade: name the file of a store", store=url)
    from dagengine.storage.sqlite_files import upgrade as upgrade_file

    return upgrade_file(path)


def open_artifacts(url_or_path: str, cache: str | None = None) -> ArtifactStore:
    """Artifacts in a folder, or at any URL that fsspec knows; then `cache` is a local folder for what is read.

    Beside `cache` it is noted on which filesystem a folder lies, which is refused where that is not mounted any more.
    """
    scheme = _SCHEME.match(url_or_path)
    if scheme is None or scheme[1].lower() == "file":
        from dagengine.storage.artifacts import LocalArtifacts
        from dagengine.storage.mounts import NOTE, check_mounted, note_mount

        folder = Path(_absolute(url_or_path[len(scheme[0]) :] if scheme else url_or_path))
        if cache is None:
            return LocalArtifacts(str(folder))
        note = Path(cache).with_name(NOTE)
        check_mounted(folder, note)
        opened = LocalArtifacts(str(folder))
        note_mount(folder, note)
        return opened
    if cache is None:
        raise StoreUnavailable(f"artifacts at {scheme[0]}//… need a local folder as a cache", store=scheme[0])
    from dagengine.storage.remote_artifacts import FsspecArtifacts

    return FsspecArtifacts(url_or_path, cache)


def need_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise StoreUnsupported(
            f"the driver for postgresql: stores can't be loaded: {' '.join(str(error).split())[:200]}. "
            "Install it: pip install 'dagengine[postgres]'",
            store="postgresql:",
        ) from None


def local_path(url: str) -> str | None:
    """The file of a SQLite store; None for a store in memory."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        named_a_folder = url.endswith(("/", "\\")) or Path(url).expanduser().is_dir()
        return _absolute(f"{url}/store.db" if named_a_folder else url)
    name, rest = scheme[1].lower(), url[scheme.end() :]
    if name == "memory" and not rest.strip("/"):
        return None
    if name != "sqlite":
        # Only the scheme is repeated: the rest of a URL may hold a password.
        raise StoreUnsupported(f"{name}: stores can't be opened: {_SUPPORTED}", store=f"{name}:")
    path = rest.partition("?")[0]
    if not path.startswith("///") or not path.strip("/"):
        raise StoreUnsupported(f"a sqlite: URL without the path of a file: {_SUPPORTED}", store="sqlite:")
    return _absolute(path)


def _absolute(path: str) -> str:
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    return str(Path(path).expanduser().absolute())
