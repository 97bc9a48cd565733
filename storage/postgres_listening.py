"""Hearing at once that something is asked of a process's runs: PostgreSQL's LISTEN, on a connection of its own.

Only a hint. What is asked is in the tables, and found there with the next renewal of the lease; so nothing is lost with
the connection, and behind a pooler, which has no sessions to listen in, nothing is listened for.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

import psycopg

from dagengine.storage.postgres_connections import Link
from dagengine.storage.postgres_url import Target


class Ear:
    """`wait` on one thread; `wake` and `close` from any."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._link: Link | None = None
        self._channel = ""
        self._lock = threading.Lock()
        self._woken, self._wake = os.pipe()
        self._closed = False

    def wait(self, channel: str, seconds: float) -> None:
        """Until something is said on the channel, or for so long, or until `wake`.

        Not at all when it has only begun to listen: what was asked before then was not heard, and has to be looked for.
        """
        ends = select.poll()  # `select` takes no descriptor above 1,023
        ends.register(self._woken, select.POLLIN)
        try:
            link, new = self._listening(channel)
            if link is not None:
                if new or self._heard(link):
                    return
                ends.register(link.raw.fileno(), select.POLLIN)
        except psycopg.Error:
            self._hang_up()  # the server is away; it will be tried again next time
        ready = ends.poll(seconds * 1_000)
        if any(end == self._woken for end, _ in ready):
            os.read(self._woken, 4096)
        elif ready and self._link is not None:
            try:
                self._heard(self._link)
            except psycopg.Error:
                self._hang_up()

    def _listening(self, channel: str) -> tuple[Link | None, bool]:
        """The connection, where there can be one, and whether it listens only since now."""
        link = self._link
        if link is None:
            link = self._link = Link(self._target)
            self._channel = ""
        if link.pooled:
            return None, False
        new = channel != self._channel
        if new:
            link.raw.execute(f'LISTEN "{channel}"'.encode())
            self._channel = channel
        return link, new

    @staticmethod
    def _heard(link: Link) -> bool:
        """Take in what has come. What it says does not matter."""
        link.raw.pgconn.consume_input()
        heard = False
        while link.raw.pgconn.notifies() is not None:
            heard = True
        return heard

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def wake(self) -> None:
        with self._lock:
            if not self._closed:
                os.write(self._wake, b"\0")

    def close(self) -> None:
        """When nobody waits any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._hang_up()
        for end in (self._woken, self._wake):
            with contextlib.suppress(OSError):
                os.close(end)
