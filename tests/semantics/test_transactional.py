"""Transactional tasks: what they do to a database counts once, whatever dies, and as a whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dagengine import Engine, context, get, task, workflow
from dagengine.engine import Engine as AnyEngine
from dagengine.errors import BadOption, DefinitionError, Fenced, RunFailed
from dagengine.model import Value
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.outbox import Taken, elsewhere, in_store
from tests.semantics.conftest import Everywhere

DATABASE = Path(tempfile.gettempdir()) / f"dagengine-test-{os.getpid()}.db"
URL = f"sqlite:///{DATABASE}"


@pytest.fixture(autouse=True)
def _no_database() -> Iterator[None]:
    _forget()
    yield
    _forget()


def _forget() -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        Path(f"{DATABASE}{end}").unlink(missing_ok=True)


MAKE = "CREATE TABLE moved_by_test (amount INTEGER)"


@task(transactional=True)
def prepare() -> None:
    context().connection.execute(text("DROP TABLE IF EXISTS moved_by_test"))
    context().connection.execute(text(MAKE))


@task(transactional=True, retries=1, retry_delay=0.0)
def move(amount: int, ready: Any) -> list[int]:
    """Fails once, after it has written: nothing of that may stay."""
    connection = context().connection
    connection.execute(text("INSERT INTO moved_by_test VALUES (:amount)"), {"amount": amount})
    if context().attempt == 1 and amount == 2:
        raise ValueError("half-way")
    return [row[0] for row in connection.execute(text("SELECT amount FROM moved_by_test ORDER BY amount"))]


@task
def join(*parts: list[int]) -> str:
    return " ".join("".join(map(str, part)) for part in parts)


@workflow
def moving() -> str:
    one = move(1, prepare())
    return join(one, move(2, one))


def test_what_a_task_does_to_the_stores_database_counts_once(everywhere: Everywhere) -> None:
    """Each row is there once, wherever the process died, and a failed attempt leaves none."""
    for report in everywhere(moving, stores=("sqlite", "postgres")).values():
        assert report.result == "1 12"


@task(transactional=URL)
def prepare_elsewhere() -> None:
    context().connection.execute(text(MAKE))


@task(transactional=URL)
def move_elsewhere(amount: int, ready: Any) -> list[int]:
    connection = context().connection
    connection.execute(text("INSERT INTO moved_by_test VALUES (:amount)"), {"amount": amount})
    return [row[0] for row in connection.execute(text("SELECT amount FROM moved_by_test ORDER BY amount"))]


@workflow
def moving_elsewhere() -> str:
    one = move_elsewhere(1, prepare_elsewhere())
    return join(one, move_elsewhere(2, one))


def test_what_a_task_does_to_another_database_counts_once(everywhere: Everywhere) -> None:
    """With any store; the note of it lies in that database, in a table that is made there."""
    for report in everywhere(moving_elsewhere, before=_forget, stores=("memory",)).values():
        assert report.result == "1 12"
    with sqlite3.connect(DATABASE) as connection:
        noted = connection.execute("SELECT step, digest <> '' FROM dagengine_outbox ORDER BY rowid").fetchall()
    connection.close()
    assert [key for key, _ in noted[-3:]] == [
        "moving_elsewhere/prepare_elsewhere[0]",
        "moving_elsewhere/move_elsewhere[0]",
        "moving_elsewhere/move_elsewhere[1]",
    ]
    assert all(has_value for _, has_value in noted)


@task(transactional=URL)
def large() -> str:
    context().connection.execute(text("CREATE TABLE IF NOT EXISTS seen (x INTEGER)"))
    return "x" * 100_000


@workflow
def of_large() -> str:
    return large()


def test_a_large_result_is_an_artifact(engine: AnyEngine) -> None:
    """The note has its digest only."""
    assert engine.start(of_large).result() == "x" * 100_000
    with sqlite3.connect(DATABASE) as connection:
        size, value = connection.execute("SELECT size, value FROM dagengine_outbox").fetchone()
    connection.close()
    assert (size > 100_000, value) == (True, None)


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as opened:
        yield opened


def test_nothing_stays_in_the_stores_outbox(sqlite_engine: Engine) -> None:
    """The note goes with the commit of the step's end."""
    assert sqlite_engine.start(moving).result() == "1 12"
    count = sqlite_engine.store.side(lambda c: c.execute("SELECT count(*) FROM outbox").fetchone()[0], write=False)
    assert count == 0


def test_a_process_that_lost_the_run_commits_nothing(sqlite_engine: Engine) -> None:
    """The commit holds the fencing token that the attempt was started under against the run's."""
    run = sqlite_engine.start(moving)
    run.result()
    address = sqlite_engine.store.address
    assert address is not None
    late = in_store(address, run._driver.claim.run_number, run._driver.claim.token - 1, 77)
    late.connection().execute(text("INSERT INTO moved_by_test VALUES (99)"))
    with pytest.raises(Fenced, match="taken over"):
        late.commit(VALUE)
    late.roll_back()
    assert late.find() is None


def test_of_two_attempts_at_a_step_one_commits() -> None:
    """The other finds that it comes too late, and what the first returned."""
    first, second = (elsewhere(URL, "run", "w/f[0]") for _ in range(2))
    assert first.find() is None
    first.connection()
    first.commit(VALUE)
    with pytest.raises(Taken):
        second.connection()
    assert second.find() == VALUE


VALUE = Value("ab" * 32, 1, b"x")


def test_steps_with_long_keys_are_told_apart() -> None:
    """Also where only their ends differ."""
    for end in "ab":
        outbox = elsewhere(URL, "run", f"{'w/' * 400}f[{end}]")
        assert outbox.find() is None
        outbox.connection()
        outbox.commit(VALUE)
        assert outbox.find() == VALUE


# ---- what is refused --------------------------------------------------------------------------


def fails(engine: AnyEngine, started: Any) -> BaseException:
    with pytest.raises(RunFailed) as caught:
        engine.start(started).result()
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


def test_the_store_in_memory_has_no_database(engine: AnyEngine) -> None:
    """One line says what to do."""
    assert "needs a store in SQLite or PostgreSQL" in str(fails(engine, moving))


@task(transactional=URL)
def committing() -> None:
    context().connection.execute(text("CREATE TABLE seen (x INTEGER)"))
    context().connection.commit()


@workflow
def of_committing() -> None:
    return committing()


def test_a_commit_of_the_tasks_own_is_refused(engine: AnyEngine) -> None:
    """It would part what the task did from what it returned; nothing of it stays."""
    error = fails(engine, of_committing)
    assert isinstance(error, DefinitionError)
    assert "leave out the commit" in str(error)
    with sqlite3.connect(DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'seen'").fetchone() == (0,)
    connection.close()


@task(transactional="oracle+nosuch://host/db")
def without_driver() -> None: ...


@workflow
def of_without_driver() -> None:
    return without_driver()


def test_a_url_without_a_driver_fails_the_step(engine: AnyEngine) -> None:
    """In one line, without the URL's password."""
    error = fails(engine, of_without_driver)
    assert isinstance(error, BadOption)
    assert len(str(error).splitlines()) == 1


@task(transactional=True)
def remembering() -> int:
    return context().once("x", lambda: 1)


@workflow
def of_remembering() -> int:
    return remembering()


def test_once_in_a_transaction_is_refused(sqlite_engine: Engine) -> None:
    """It would wait for a commit of the store that waits for the transaction."""
    assert "counts once already" in str(fails(sqlite_engine, of_remembering))


@pytest.mark.parametrize("where", ["my database", 3, "", "HTTP//x"])
def test_where_has_to_be_true_or_a_url(where: Any) -> None:
    """Said when the task is made."""
    with pytest.raises(BadOption, match="SQLAlchemy URL"):
        task(transactional=where)


def test_async_tasks_and_calls_with_another_database_are_refused() -> None:
    """What a task's transaction is belongs to its definition."""

    async def later() -> None: ...

    with pytest.raises(BadOption, match="is async"):
        task(transactional=True)(later)
    with pytest.raises(DefinitionError, match="belongs to move itself"):
        move.options(transactional=URL)


def test_passwords_are_not_recorded() -> None:
    """The record says that there is another database, and not which."""

    @task(transactional="postgresql+psycopg://me:secret@host/db")
    def f() -> None: ...

    assert f.settings.to_json() == {"transactional": "elsewhere://"}


def test_a_password_that_would_travel_by_value_is_refused() -> None:
    """A task that no name leads to is recorded whole, and its URL with it."""

    @task(transactional="postgresql+psycopg://me:secret@host/db")
    def hidden() -> None: ...

    @workflow
    def body() -> None:
        get(hidden())

    with (
        Engine("memory:", runtime=InlineRuntime()) as engine,
        pytest.raises(BadOption, match="has a password, which would be recorded") as refused,
    ):
        engine.start(body)
    assert ":secret" not in str(refused.value)
