"""Transactions of tasks: what a task does to a database commits together with a note of what it returned.

The note is a row of `outbox` in the store's own database, or of `dagengine_outbox` in another, which is made there if it is
missing. The row is begun first: of two attempts at a step that are on their way at once, the second waits at its key, and
then finds that it comes too late. On the store's database the commit also holds the run's fencing token against the one
that the attempt was started under, so a process that has lost the run commits nothing.

Runs in workers, on connections of their own. In the store's SQLite file a transaction is its one writer from its first
statement on: everybody else waits, for at most BUSY_TIMEOUT.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from dagengine.errors import BadOption, DefinitionError, Fenced, StoreUnavailable
from dagengine.model import Value
from dagengine.storage.postgres_url import is_postgres, parse
from dagengine.storage.schema import RUN
from dagengine.storage.side_schema import OUTBOX
from dagengine.storage.sqlite_errors import BUSY_TIMEOUT
from dagengine.storage.statements import Query
from dagengine.storage.writes import SideWrite

CLEAR = Query(lambda: delete(OUTBOX).where(OUTBOX.c.run == bindparam("run"), OUTBOX.c.seq == bindparam("seq")))

KEY_MAX = 600
"""Characters. With the run's id, what every database takes as a primary key (MySQL: 3,072 bytes)."""

ELSEWHERE = Table(
    "dagengine_outbox",
    MetaData(),
    Column("run", String(128), nullable=False),  # its id
    Column("step", String(KEY_MAX), nullable=False),  # its key; of a longer one the start and a digest
    Column("at", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("value", LargeBinary),
    PrimaryKeyConstraint("run", "step", name="dagengine_outbox_pk"),
)

TaskConnection = Connection
"""What a task is given: SQLAlchemy's."""

_OURS = "dagengine: we commit"


class Taken(Exception):
    """Another attempt at the step has committed meanwhile."""


def clear(seqs: list[int]) -> SideWrite:
    """The write that forgets the notes of these steps, whose ends are recorded with it."""
    return SideWrite("outbox:CLEAR", tuple({"seq": seq} for seq in seqs))


class Outbox:
    """The note of one step, and the transaction of one attempt at it. `find` first; then `connection`, `commit`.

    key: what names the step in the table
    check: called in the transaction right before its commit; raises what speaks against it
    """

    def __init__(
        self, engine: Engine, table: Table, key: dict[str, Any], check: Callable[[Connection], None] = lambda _: None
    ) -> None:
        self._engine = engine
        self._table = table
        self._key = key
        self._where = and_(*(table.c[name] == value for name, value in key.items()))
        self._check = check
        self._connection: Connection | None = None

    @property
    def begun(self) -> bool:
        return self._connection is not None

    def find(self) -> Value | None:
        """What an attempt has returned whose transaction is committed."""
        try:
            try:
                return self._find()
            except (OperationalError, ProgrammingError):  # as each driver says that there is no such table
                if self._table is not ELSEWHERE:
                    raise
                _make(self._engine)
                return self._find()
        except SQLAlchemyError as error:
            raise _unavailable(error) from None

    def _find(self) -> Value | None:
        columns = self._table.c
        with self._engine.connect() as connection:
            row = connection.execute(select(columns.digest, columns.size, columns.value).where(self._where)).fetchone()
        return None if row is None else Value(row[0], row[1], row[2])

    def connection(self) -> Connection:
        """In the transaction, which begins now if it has not. Raises Taken."""
        if self._connection is None:
            self._connection = self._engine.connect()
            row = {**self._key, "at": time.time(), "size": 0, "digest": "", "value": None}
            try:
                self._connection.execute(self._table.insert().values(**row))
            except IntegrityError:
                self.roll_back()
                raise Taken from None
        return self._connection

    def commit(self, value: Value) -> None:
        """Note what the step returned, and commit. Raises Fenced if the run is another process's by now."""
        connection = self.connection()
        if not connection.in_transaction():
            raise DefinitionError(
                "the task has ended the transaction of context().connection itself, and what it did is undone or half "
                "done: leave commit and rollback to dagengine, and use begin_nested() for a part."
            )
        noted = {"size": value.size, "digest": value.digest, "value": value.inline}
        connection.execute(self._table.update().where(self._where).values(**noted))
        self._check(connection)
        connection.info[_OURS] = True
        connection.commit()
        self.roll_back()

    def roll_back(self) -> None:
        """End the transaction, if it is not committed, and its connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def in_store(address: str, run_number: int, token: int, seq: int) -> Outbox:
    """On the database of the store at `address` (`Store.address`)."""
    key = {"run": run_number, "seq": seq}
    return Outbox(_store_engine(address), OUTBOX, key, partial(_check_token, run_number=run_number, token=token))


def elsewhere(url: str, run_id: str, key: str) -> Outbox:
    """On another database. Raises BadOption for a URL that SQLAlchemy does not understand or has no driver for."""
    if len(key) > KEY_MAX:
        key = f"{key[: KEY_MAX - 65]} {sha256(key.encode()).hexdigest()}"
    return Outbox(_other_engine(url), ELSEWHERE, {"run": run_id, "step": key})


def _unavailable(error: SQLAlchemyError) -> StoreUnavailable:
    """One line, without the statement and its values."""
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return StoreUnavailable(f"the database of a transactional task can't be asked: {reason}", store="")


def _check_token(connection: Connection, run_number: int, token: int) -> None:
    query = select(RUN.c.token, RUN.c.id).where(RUN.c.number == run_number).with_for_update(read=True)
    row = connection.execute(query).fetchone()
    if row is None or row[0] != token:
        name = "the run" if row is None else f"run {row[1]}"
        raise Fenced(f"{name} was taken over by another process; this attempt commits nothing", store="")


@cache
def _store_engine(address: str) -> Engine:
    if is_postgres(address):
        target = parse(address)

        def connect() -> Any:
            import psycopg

            return psycopg.connect(**target.libpq, application_name="dagengine task", client_encoding="utf8")  # type: ignore[arg-type]

        made = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
        return _guarded(made).execution_options(schema_translate_map={None: target.schema})
    from dagengine.storage.sqlite_files import engine_of

    return _guarded(engine_of(address))


@cache
def _other_engine(url: str) -> Engine:
    try:
        given = {"timeout": BUSY_TIMEOUT} if url.startswith("sqlite") else {}
        engine = create_engine(url, poolclass=NullPool, connect_args=given)
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadOption(
            f"transactional= is no URL that SQLAlchemy understands: {str(error).partition(' (')[0]}."
        ) from None
    except ModuleNotFoundError as error:
        raise BadOption(f"transactional= needs a driver that is not installed: {error.name}.") from None
    if engine.dialect.name == "sqlite":
        # Left to itself, the driver begins a transaction late, and can't turn one that has read into one that writes.
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return _guarded(engine)


def _make(engine: Engine) -> None:
    """Make the table, unless another worker is quicker."""
    with engine.connect() as connection:
        connection.info[_OURS] = True
        try:
            ELSEWHERE.create(connection, checkfirst=True)
            connection.commit()
        except SQLAlchemyError:
            connection.rollback()
            if not engine.dialect.has_table(connection, ELSEWHERE.name):
                raise


def _guarded(engine: Engine) -> Engine:
    """Nobody but us commits: a task's own commit would part what it did from the note of it."""

    def refuse(connection: Connection) -> None:
        if not connection.info.get(_OURS):
            raise DefinitionError(
                "context().connection is committed by dagengine, together with what the task returns: leave out the commit."
            )

    event.listen(engine, "commit", refuse)
    return engine
