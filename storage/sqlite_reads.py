"""Connections that read from a SQLite store. They never hold up the writer or its checkpoints.

May import nothing of ours but errors and modules of storage.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dagengine.errors import StoreUnavailable
from dagengine.storage.sqlite_errors import translated, url_of
from dagengine.storage.sqlite_files import connect

_IDLE_MAX = 4
"""Connections kept open between questions. More questions at once open more, and close them."""


class ReadPool:
    """Connections that only read, for any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._pid = os.getpid()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the store until the end of the block."""
        with self.alone() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question, whose answer is read to its end in the block."""
        with translated(self._path):
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        self.check_open()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = connect(self._path)
        connection.execute("PRAGMA query_only=1")
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def check_open(self) -> None:
        """Raise StoreUnavailable where the store can't be used any more, or not from this process."""
        url = url_of(self._path)
        if os.getpid() != self._pid:
            raise StoreUnavailable(
                f"the store {url} was opened by another process, {self._pid}: open it again after a fork", store=url
            )
        if self._closed:
            raise StoreUnavailable(f"the store {url} is closed: open it again", store=url)

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
