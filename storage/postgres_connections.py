"""Connections to a PostgreSQL server: made, looked at, and made again when the server comes back.

What a connection is told to do (time limits, plans by index) is session state. Behind a pooler that gives each
transaction another session it would be lost, or land with somebody else. There, every transaction says it again, and no
statement stays prepared. Whether a pooler is between is seen from the number of the server's process: a pooler hands out
numbers of its own.

May import nothing of ours but errors and modules of storage.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from dagengine.storage.postgres_errors import (
    NotPrimary,
    Passes,
    Unsuitable,
    has_none_left,
    is_starting,
    may_connect_later,
    not_connected,
    passes,
    why_in_the_way,
)
from dagengine.storage.postgres_url import Target

T = TypeVar("T")

ATTEMPT_SECONDS = 10
"""For one attempt to connect. A host that swallows packets answers never."""

SHORTEST_ATTEMPT = 2
"""The same, where less time is left: libpq takes no less."""

STARTING_SECONDS = 10.0
"""A server that is starting is waited for at least so long, also by who did not ask for it."""

FIRST_WAIT, LONGEST_WAIT = 0.02, 2.0
NOTICE_AFTER = 3.0
"""Seconds of waiting before somebody is told."""

OLDEST = 120_000  # PostgreSQL 12

_SETTINGS = {
    "lock_timeout": "10s",  # of ours none takes a millisecond; another's is waited for, then tried again
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",  # a process that stops in one must not hold its locks
    # Everything is found by its key, also while the tables grow faster than their statistics.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds: a server that is cut off is noticed in the middle of a statement
}

_LOOK = """
    SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
           current_setting('synchronous_commit'), current_setting('server_version_num')::integer,
           current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'
"""

NOT_DURABLE = (
    "its server runs with fsync = off or full_page_writes = off: when its machine crashes or loses power, recorded results "
    "are lost. Have both turned on"
)

_log = logging.getLogger("dagengine.storage")


class Link:
    """A connection in autocommit mode. `preamble`: what each transaction has to begin with, if anything. `durable`: what is
    committed survives a crash of the server's machine. `seconds`: for the server to take it."""

    def __init__(self, target: Target, seconds: float = ATTEMPT_SECONDS) -> None:
        given = {**_KEEPALIVE, "application_name": "dagengine", **target.libpq}
        given.setdefault("connect_timeout", str(math.ceil(min(max(seconds, SHORTEST_ATTEMPT), ATTEMPT_SECONDS))))
        self.raw: psycopg.Connection[Any] = psycopg.connect(**given, autocommit=True, client_encoding="utf8")  # type: ignore[arg-type]
        try:
            self._look()
        except BaseException:
            self.raw.close()
            raise

    def _look(self) -> None:
        self.raw.prepare_threshold = None
        row = self.raw.execute(_LOOK).fetchone()
        assert row is not None
        pid, in_recovery, read_only, synchronous, version, self.durable = row
        if version < OLDEST:
            raise Unsuitable(f"the server is PostgreSQL {version // 10_000}: use 12 or a newer one")
        if in_recovery or read_only:
            raise NotPrimary("the server is a replica, or read-only. Name the primary server")
        settings = dict(_SETTINGS)
        if synchronous == "off":  # a commit would be told before it is durable
            settings["synchronous_commit"] = "on"
        self.pooled = pid != self.raw.info.backend_pid
        says = ", ".join(
            f"set_config('{name}', '{value}', {str(self.pooled).lower()})" for name, value in settings.items()
        )
        self.preamble = f"SELECT {says}" if self.pooled else ""
        if not self.pooled:
            self.raw.execute(f"SELECT {says}".encode())
            self.raw.prepare_threshold = 3

    def begin(self, how: str = "") -> None:
        self.raw.execute(f"BEGIN {how}".encode())
        if self.preamble:
            self.raw.execute(self.preamble.encode())

    def commit(self) -> None:
        self.raw.execute(b"COMMIT")

    def roll_back(self) -> None:
        """Leave the transaction, if there is one. Raises psycopg.Error if the connection is lost."""
        if self.raw.info.transaction_status != TransactionStatus.IDLE:
            self.raw.execute(b"ROLLBACK")

    @property
    def lost(self) -> bool:
        return self.raw.pgconn.transaction_status == TransactionStatus.UNKNOWN  # also when it was closed

    def close(self) -> None:
        self.raw.close()


class Waiting:
    """Waits between attempts: longer from one to the next, each of a random length, all together no longer than allowed.

    Said once, when it takes long; and when it is over.
    """

    def __init__(self, url: str, seconds: float, over: threading.Event) -> None:
        self._url = url
        self._seconds = seconds
        self._over = over
        self._began = time.monotonic()
        self._next = FIRST_WAIT
        self._told = False

    def wait(self, error: BaseException) -> bool:
        """Before the next attempt. False if there is to be none."""
        waited = time.monotonic() - self._began
        if waited >= self._seconds or self._over.is_set():
            return False
        if waited >= NOTICE_AFTER and not self._told:
            self._told = True
            left = math.ceil(self._seconds - waited)
            _log.warning("the store %s %s; waiting for up to %d s more", self._url, why_in_the_way(error), left)
        delay = self._next * random.uniform(0.5, 1.0)
        self._next = min(2 * self._next, LONGEST_WAIT)
        self._over.wait(min(delay, self._seconds - waited))
        return True

    @property
    def left(self) -> float:
        """Seconds."""
        return self._seconds - (time.monotonic() - self._began)

    def ended(self) -> None:
        if self._told:
            waited = time.monotonic() - self._began
            _log.warning("the store %s answers again, after %.1f s", self._url, waited)


def connect(target: Target) -> Link:
    """The first connection: a server that is not there is waited for as long as was said, and one that swallows packets is
    given no longer either. Raises our errors."""
    seconds = target.connect_timeout
    waiting = Waiting(target.url, seconds, threading.Event())
    starting = Waiting(target.url, max(seconds, STARTING_SECONDS), threading.Event())
    while True:
        try:
            link = Link(target, waiting.left if seconds else ATTEMPT_SECONDS)
        except psycopg.Error as error:
            wait = starting if is_starting(error) else waiting
            if may_connect_later(error) and wait.wait(error):
                continue
            raise not_connected(error, target) from None  # its text may hold what is not to be shown
        waiting.ended()
        return link


def persistently(work: Callable[[], T], target: Target, over: threading.Event, spare: Callable[[], None]) -> T:
    """Do `work` again until it is done, if what is in its way passes by itself. Raises psycopg.Error if it does not.

    `over`: somebody can't wait any more. `spare`: gives up the connections of ours that nobody uses. Who kept one while he
    waits for another would wait for those who do the same.
    """
    waiting = Waiting(target.url, target.patience, over)
    while True:
        try:
            done = work()
        except psycopg.Error as error:
            if has_none_left(error):
                spare()
            if passes(error) is Passes.NO or not waiting.wait(error):
                raise
        else:
            waiting.ended()
            return done
