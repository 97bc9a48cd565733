"""PostgreSQL's errors in our words, and which of them pass by themselves.

    the connection is gone, the server stops, starts, is full of clients    try again on a new connection
    a deadlock, a conflict, a lock or statement that took too long          try the same transaction again
    its disk is full, it is read-only                                       the same, until somebody has made room
    all others                                                              told, in one line

libpq gives no codes for what goes wrong while connecting, only texts, which are matched here; a text that nothing
matches is passed on, without the password. May import nothing of ours but errors and the URL.
"""

from __future__ import annotations

import re
from enum import Enum

import psycopg

from dagengine.errors import InternalError, StoreError, StoreFull, StoreUnavailable
from dagengine.storage.postgres_url import Target


class Passes(Enum):
    """Whether an error passes by itself, and what has to be done until it has."""

    NO = "no"
    WITH_TIME = "with time"  # the connection is unusable, or the server is not there
    AGAIN = "again"  # the transaction was rolled back for the sake of another


class NotPrimary(psycopg.OperationalError):
    """The server takes no writes: it is a replica, or has been made read-only."""


class Unsuitable(Exception):
    """The server can't be used as it is. The text says why, and what to do."""


_AGAIN = {"40001", "40P01", "55P03", "57014"}
_WITH_TIME = {"57P01", "57P02", "57P03", "57P05", "53100", "53300", "25006", "58000", "58030"}

_STARTING = re.compile(r"starting up|shutting down|recovery mode|not yet accepting connections")

_NONE_LEFT = "it has no connection left"

_CONNECTING: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"translate host name|resolve host|[Nn]ame or service not known|nodename nor servname"),
        "there is no host of that name. Correct the host in the URL, or check the network",
    ),
    (
        re.compile(r"password authentication failed|no password supplied|authentication failed"),
        "the user or the password is wrong. Correct them in the URL, in PGPASSWORD or in ~/.pgpass",
    ),
    (re.compile(r'role ".*" does not exist'), "there is no such user. Correct the user in the URL, or create it"),
    (re.compile(r'database ".*" does not exist'), "there is no such database. Correct the URL, or create it"),
    (
        re.compile(r"no pg_hba.conf entry|not permitted to log in|no encryption"),
        "the server does not let this user in from here. Ask its operator for an entry in pg_hba.conf, or try sslmode=",
    ),
    (
        re.compile(r"permission denied for database"),
        "the user has no right to connect to this database: GRANT CONNECT is missing",
    ),
    (re.compile(r"too many clients|remaining connection slots|too many connections"), _NONE_LEFT),
    (_STARTING, "it is starting or stopping"),
    (re.compile(r"Connection refused"), "nothing listens there: the port is closed. Start the server, or correct it"),
    (re.compile(r"No such file or directory"), "there is no server's socket. Start the server, or correct the host"),
    (re.compile(r"timeout expired|timed out|No route|unreachable"), "it does not answer. Check host and network"),
    (
        re.compile(r"invalid connection option|invalid URI|unrecognized|invalid .* value"),
        "the URL has a parameter that libpq does not know, or a wrong value of one. Correct it",
    ),
    (re.compile(r"SSL|certificate"), "the secured connection could not be made. Correct sslmode= and certificates"),
)
_LATER = ("nothing listens", "no server's socket", "does not answer", "starting or stopping", "no connection left")


def passes(error: BaseException) -> Passes:
    if not isinstance(error, psycopg.Error):
        return Passes.NO
    code = error.sqlstate
    if code is None:
        lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return Passes.WITH_TIME if lost else Passes.NO
    if code in _AGAIN:
        return Passes.AGAIN
    return Passes.WITH_TIME if code in _WITH_TIME or code.startswith("08") else Passes.NO


def why_not_connected(error: psycopg.Error) -> str:
    text = str(error)
    return next((said for pattern, said in _CONNECTING if pattern.search(text)), "")


def why_in_the_way(error: BaseException) -> str:
    """Of what passes with time: a few words after "the store …"."""
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    if code == "53100":
        return "does not take what is written: the disk of its server is full"
    if code == "25006" or isinstance(error, NotPrimary):
        return "does not take what is written: the server is read-only"
    if code in _AGAIN:
        return "is held up by another transaction"
    why = why_not_connected(error) if isinstance(error, psycopg.Error) else ""
    return f"does not answer: {why or type(error).__name__}"


def may_connect_later(error: psycopg.Error) -> bool:
    """Whether it is worth to wait for the server that has refused."""
    return isinstance(error, NotPrimary) or why_not_connected(error).startswith(
        tuple(said for _, said in _CONNECTING if any(word in said for word in _LATER))
    )


def has_none_left(error: psycopg.Error) -> bool:
    """Whether the server has no connection left."""
    return error.sqlstate == "53300" or why_not_connected(error) == _NONE_LEFT


def is_starting(error: psycopg.Error) -> bool:
    return _STARTING.search(str(error)) is not None


def one_line(error: BaseException, target: Target) -> str:
    """What the server said, in one line and without a secret."""
    text = " ".join(str(error).split())
    for secret in target.secrets:
        text = text.replace(secret, "…")
    return text[:300]


def not_connected(error: psycopg.Error, target: Target) -> StoreUnavailable:
    if isinstance(error, NotPrimary):
        return StoreUnavailable(f"the store {target.url} can't be written to: {error}", store=target.url)
    why = why_not_connected(error) or one_line(error, target)
    hint = "" if target.connect_timeout or not may_connect_later(error) else " (--connect-timeout SECONDS waits for it)"
    return StoreUnavailable(f"the store {target.url} can't be reached: {why}{hint}", store=target.url)


def translate(error: psycopg.Error, target: Target) -> StoreError | InternalError:
    """What to tell of an error that was not waited for, or did not pass."""
    code, url = error.sqlstate or "", target.url
    if isinstance(error, NotPrimary) or code == "25006":
        return StoreUnavailable(
            f"the store {url} can't be written to: the server is read-only. Name the primary server", store=url
        )
    if code == "53100":
        return StoreFull(f"the disk of the server of {url} is full. Make room there, then resume", store=url)
    if code in ("42501", "3F000"):
        return StoreUnavailable(
            f"the store {url} refuses this user: {one_line(error, target)}. "
            f"Give it USAGE on schema {target.schema} and all rights on its tables and sequences",
            store=url,
        )
    if code in ("55P03", "40P01", "57014"):
        return StoreUnavailable(
            f"the store {url} is held up by another transaction: {one_line(error, target)}. "
            "Try again when it has ended",
            store=url,
        )
    if code in ("42P01", "42703"):
        return StoreUnavailable(
            f"the store {url} is not what it was when it was opened: {one_line(error, target)}. "
            "See `dagengine db check`",
            store=url,
        )
    if passes(error) is Passes.WITH_TIME or code.startswith(("53", "58", "XX", "57")):
        return StoreUnavailable(
            f"the store {url} does not answer: {why_not_connected(error) or one_line(error, target)}. "
            "What is recorded stands; resume when the server is back",
            store=url,
        )
    return InternalError(f"PostgreSQL refused a statement at {url}: {type(error).__name__}: {one_line(error, target)}")
