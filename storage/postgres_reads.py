"""Everything that is asked of a PostgreSQL store: the shared questions, on connections that are made again when lost.

A question that the server's end interrupts is asked again from its beginning. May import nothing of ours but errors and
modules of storage.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from dagengine.errors import StoreUnavailable
from dagengine.storage.postgres_connections import Link, persistently
from dagengine.storage.postgres_errors import translate
from dagengine.storage.postgres_url import Target
from dagengine.storage.reads import Reads
from dagengine.storage.statements import LISTS, Cursor, Query, compile_query

P = ParamSpec("P")
T = TypeVar("T")

_IDLE_MAX = 4
"""Connections kept open between questions. More questions at once open more, and close them."""

_DIALECT: Any = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]


class Asking:
    """A connection that the shared statements can be asked of, in the store's own schema."""

    def __init__(self, link: Link, schema: str, compiled: dict[Query, Any]) -> None:
        self._link = link
        self._schema = schema
        self._compiled = compiled

    def ask(self, query: Query, given: dict[str, Any]) -> Cursor:
        found = self._compiled.get(query)
        if found is None:
            found = self._compiled[query] = compile_query(
                query, _DIALECT, schema_translate_map={None: self._schema}, render_schema_translate=True
            )
        sql, names, constants = found
        if constants:
            given |= constants
        prepare = None
        for name in LISTS.intersection(names):
            given[name] = json.loads(given[name])
            prepare = False  # planned with its numbers, the server looks them up in a hash
        return self._link.raw.execute(sql.encode(), [given[name] for name in names], prepare=prepare, binary=True)


class ReadPool:
    """Connections for any thread, apart from the one that writes."""

    def __init__(self, target: Target, over: threading.Event, spare: Callable[[], None]) -> None:
        self._target = target
        self._over = over
        self._spare = spare
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._compiled: dict[Query, Any] = {}
        self._closed = False
        self._pid = os.getpid()

    @contextmanager
    def reading(self) -> Iterator[Asking]:
        """A connection that sees one state of the store until the end of the block. Raises psycopg.Error."""
        with self.link() as link:
            link.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield self.asking(link)
            link.commit()

    @contextmanager
    def alone(self) -> Iterator[Asking]:
        """A connection for one question, which needs no transaction: two round trips less. Raises psycopg.Error."""
        with self.link() as link:
            if link.preamble:  # what it says lasts for a transaction
                link.begin("READ ONLY")
            yield self.asking(link)
            if link.preamble:
                link.commit()

    def asking(self, link: Link) -> Asking:
        return Asking(link, self._target.schema, self._compiled)

    @contextmanager
    def link(self) -> Iterator[Link]:
        """A connection, which goes back among the idle ones unless something is raised."""
        self.check_open()
        with self._lock:
            link = self._idle.pop() if self._idle else None
        if link is None:
            link = Link(self._target)
        try:
            yield link
        except BaseException:
            self._give_back_broken(link)
            raise
        self._give_back(link)

    def _give_back(self, link: Link) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(link)
                return
        link.close()

    def _give_back_broken(self, link: Link) -> None:
        if not link.lost:
            with contextlib.suppress(psycopg.Error):
                link.roll_back()
                self._give_back(link)
                return
        link.close()
        self.drop_idle()  # what ended one has mostly ended all

    def persistently(self, work: Callable[[], T]) -> T:
        """Do `work` until the server has answered it. Errors of the driver leave as ours."""
        try:
            return persistently(work, self._target, self._over, self._spare)
        except psycopg.Error as error:
            raise translate(error, self._target) from None

    def check_open(self) -> None:
        """Raise StoreUnavailable where the store can't be used any more, or not from this process."""
        url = self._target.url
        if os.getpid() != self._pid:
            raise StoreUnavailable(
                f"the store {url} was opened by another process, {self._pid}: open it again after a fork", store=url
            )
        if self._closed:
            raise StoreUnavailable(f"the store {url} is closed: open it again", store=url)

    def drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.drop_idle()


def _again(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    @wraps(method)
    def asked(self: PostgresReads, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._readers.persistently(lambda: method(self, *args, **kwargs))

    return asked


def _on(method: Callable[Concatenate[Any, P], Iterator[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """For long answers. What was given before stays as it is: asked again, the answer goes on behind it."""

    @wraps(method)
    def asked(self: PostgresReads, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        given = 0
        pages: Iterator[T] | None = None

        def following() -> list[T]:
            nonlocal pages
            if pages is None:
                pages = method(self, *args, **kwargs)
                for _ in range(given):
                    next(pages)
            try:
                return [next(pages)]
            except StopIteration:
                return []
            except BaseException:
                pages = None
                raise

        while found := self._readers.persistently(following):
            given += 1
            yield found[0]

    return asked


class PostgresReads(Reads):
    """The questions of the interface. One that is lost with its connection is asked again."""

    def __init__(self, readers: ReadPool, url: str) -> None:
        self._readers = readers
        super().__init__(readers, url)

    frontier = _again(Reads.frontier)
    values = _again(Reads.values)
    failures = _again(Reads.failures)
    recorded_calls = _on(Reads.recorded_calls)
    saved_state = _again(Reads.saved_state)
    finish_order = _again(Reads.finish_order)
    find_run = _again(Reads.find_run)
    find_runs = _again(Reads.find_runs)
    runs = _again(Reads.runs)
    steps = _again(Reads.steps)
    counts = _again(Reads.counts)
    edges = _on(Reads.edges)
    attempts = _again(Reads.attempts)
    definitions = _again(Reads.definitions)
    events = _again(Reads.events)
    totals = _again(Reads.totals)
    census = _again(Reads.census)
