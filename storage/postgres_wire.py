"""Columns of many rows as parameters, and several statements in one round trip.

The driver's own way to do either costs more than the server needs to carry it out: 0.8 to 2.5 µs for each element of an
array and 23 µs for each statement, on a thread that shares the interpreter with the engine's. So arrays are put together
here in PostgreSQL's binary format (0.04 to 0.17 µs), and a transaction is handed to libpq at once (pipeline mode; 3 µs).

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from dagengine.storage.postgres_connections import Link

SILENCE_MS = 90_000
"""Longer than the server lets a statement take. After it, the connection is given up."""

_NULL = b"\xff\xff\xff\xff"
_length = struct.Struct("!i").pack
_head = struct.Struct("!iiIii").pack


class Type(NamedTuple):
    """Of a parameter. item: the type of its elements, if it is an array; packed: how one of them is, if not as bytes."""

    oid: int
    item: int = 0
    packed: str = ""


INT8 = Type(20)
INT4S, INT8S, FLOATS, BOOLS = Type(1007, 23, "i"), Type(1016, 20, "q"), Type(1022, 701, "d"), Type(1000, 16, "?")
TEXTS, BLOBS = Type(1009, 25), Type(1001, 17)


def array(kind: Type, values: Sequence[Any]) -> bytes:
    """Raises struct.error, TypeError, AttributeError or ValueError for what no column of the kind takes."""
    some_null = None in values
    if kind.packed:
        size = struct.calcsize("!" + kind.packed)
        if some_null:
            pack = struct.Struct("!i" + kind.packed).pack
            body = b"".join([_NULL if value is None else pack(size, value) for value in values])
        else:
            flat: list[Any] = [size] * (2 * len(values))
            flat[1::2] = values
            body = struct.pack("!" + ("i" + kind.packed) * len(values), *flat)
    else:
        items = [value.encode() if value is not None else None for value in values] if kind is TEXTS else values
        body = b"".join([_NULL if item is None else _length(len(item)) + item for item in items])
    return _head(1, some_null, kind.item, len(values), 1) + body


def items_of(kinds: Sequence[Type]) -> tuple[Type, ...]:
    """The types of the elements of these array types."""
    return tuple(Type(kind.item) for kind in kinds)


def scalar(kind: Type, value: Any) -> bytes | None:
    """An element of the array type `kind`, by itself. Raises as `array`."""
    if value is None:
        return None
    if kind.packed:
        return struct.pack("!" + kind.packed, value)
    return bytes(value.encode() if kind is TEXTS else value)


def number(value: int | None) -> bytes | None:
    return None if value is None else struct.pack("!q", value)


class Statement:
    """A statement with parameters `$1` …, in binary format. `name`: unique; under it a session keeps it prepared.

    single: does the same with one row, whose columns are parameters and not arrays. It takes the server half the time.
    """

    __slots__ = ("formats", "name", "single", "sql", "types")

    def __init__(self, name: str, sql: str, types: Sequence[Type] = (), single: Statement | None = None) -> None:
        self.single = single
        self.name = name.encode()
        self.sql = " ".join(sql.split()).encode()
        self.types = [kind.oid for kind in types]
        self.formats = [pq.Format.BINARY] * len(types)


Command = tuple[Statement, list[bytes | None]]

BEGIN, COMMIT = Statement("begin", "BEGIN"), Statement("commit", "COMMIT")


def run(link: Link, prepared: set[bytes], commands: Sequence[Command]) -> None:
    """Run all in one round trip. Raises the first error; then what comes after it has not been run.

    `prepared`: which statements this session knows by name; added to.
    """
    receive(link, prepared, send(link, prepared, commands))


Sent = list[bytes | None]
"""For each result to come, the statement that is prepared with it."""


def send(link: Link, prepared: set[bytes], commands: Sequence[Command]) -> Sent:
    """The first half of `run`: waits for nothing. Until `receive` the connection is of no other use."""
    connection = link.raw.pgconn
    connection.enter_pipeline_mode()
    names: Sent = []
    for statement, parameters in commands:
        if link.pooled:
            connection.send_query_params(statement.sql, parameters, statement.types, statement.formats)
        else:
            if statement.name not in prepared and statement.name not in names:
                connection.send_prepare(statement.name, statement.sql, statement.types)
                names.append(statement.name)
            connection.send_query_prepared(statement.name, parameters, statement.formats)
        names.append(None)
    connection.pipeline_sync()
    connection.flush()
    return names


def receive(link: Link, prepared: set[bytes], sent: Sent) -> None:
    """The second half of `run`."""
    connection = link.raw.pgconn
    done, error = _results(connection)
    connection.exit_pipeline_mode()
    prepared.update(name for name in sent[:done] if name is not None)
    if error is not None:
        raise error


def _results(connection: Any) -> tuple[int, psycopg.Error | None]:
    """Send, and read to the end of the pipeline. How many were done before the first error, and that error.

    Raises psycopg.OperationalError where the connection is lost.
    """
    done = 0
    first: psycopg.Error | None = None
    wait = select.poll()
    wait.register(connection.socket, select.POLLIN | select.POLLOUT)
    writing = True
    while True:
        if writing:
            writing = bool(connection.flush())
            if not writing:
                wait.modify(connection.socket, select.POLLIN)
        while not connection.is_busy():
            result = connection.get_result()
            if result is None:
                if connection.status == pq.ConnStatus.BAD:
                    raise first or psycopg.OperationalError("the connection is lost")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return done, first
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                first = first or error_from_result(result)
            elif first is None:
                done += 1
        if not wait.poll(SILENCE_MS):
            raise psycopg.OperationalError("the server does not answer")
        connection.consume_input()
