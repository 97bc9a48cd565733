"""SQL in workflows: what a query gives, what is recorded, and what is refused."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

from dagengine import Engine, RunFailed, databases, get, sql, task, workflow
from dagengine.errors import BadArguments, SqlFailed
from dagengine.testing import memory_engine
from tests.postgres.server import shared
from tests.semantics.conftest import Everywhere


@pytest.fixture
def trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with three trips, as the connection `trips`; its URL."""
    with sqlite3.connect(tmp_path / "trips.db") as connection:
        connection.execute("CREATE TABLE trip (month INTEGER, km REAL, name TEXT)")
        connection.executemany("INSERT INTO trip VALUES (?, ?, ?)", [(1, 2.5, "a"), (1, 4.0, None), (2, 8.0, "c")])
    connection.close()
    url = f"sqlite:///{tmp_path}/trips.db"
    monkeypatch.setenv("DAGENGINE_CONNECTION_TRIPS", url)
    return url


@pytest.fixture
def engine() -> Iterator[Engine]:
    with memory_engine() as opened:
        yield opened


@task
def total(table: pa.Table) -> float:
    return float(sum(table["km"].to_pylist()))


@workflow
def distance(month: int) -> float:
    return total(
        sql("SELECT km, name FROM trip WHERE month = :month", connection="trips", params={"month": month}, retries=2)
    )


@workflow
def cleaned() -> list[int]:
    gone = get(sql.execute("DELETE FROM trip WHERE month = :m", connection="trips", params={"m": 1}))
    left = get(sql("SELECT count(*) AS n FROM trip", connection="trips"))
    return [gone, left["n"][0].as_py()]


@workflow
def by_id() -> list[int]:
    rows = get(sql("SELECT count(*) AS n FROM trip", conn_id="my-trips.db"))
    return list(rows["n"].to_pylist())


@workflow
def wrong() -> object:
    return sql("SELECT x FROM nowhere", connection="trips")


@workflow
def elsewhere() -> object:
    return sql("SELECT 1", connection="nowhere")


def test_a_query_is_a_step_whose_value_is_a_table(engine: Engine, trips: str) -> None:
    """It is named like a task's, takes a task's options, and other steps read its table."""
    run = engine.start(distance, 1)
    assert run.result() == 6.5
    assert [step.key for step in run.steps()] == ["distance/sql[0]", "distance/total[0]"]


def test_a_query_outside_of_a_run_is_done_at_once(trips: str) -> None:
    """As with every task."""
    table = sql("SELECT name FROM trip WHERE month IN :months", url=trips, params={"months": [1, 2]})
    assert table["name"].to_pylist() == ["a", None, "c"]


def test_a_statement_is_committed_and_says_how_many_rows_it_changed(engine: Engine, trips: str) -> None:
    """What comes after it in the body sees what it did."""
    assert engine.start(cleaned).result() == [2, 1]


def test_parameters_are_bound_and_never_formatted(trips: str) -> None:
    """A value that is SQL stays a value."""
    hostile = "'; DROP TABLE trip; --"
    assert sql("SELECT :said AS said", url=trips, params={"said": hostile})["said"].to_pylist() == [hostile]
    assert sql("SELECT count(*) AS n FROM trip", url=trips)["n"].to_pylist() == [3]


def test_a_result_without_rows_keeps_its_columns(trips: str) -> None:
    """So that what comes after it need not ask."""
    table = sql("SELECT month, name FROM trip WHERE month = 9", url=trips)
    assert table.column_names == ["month", "name"]
    assert len(table) == 0


def test_rows_come_in_batches_whose_types_are_brought_together(trips: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch has only empty values, the second has text; whole numbers widen to fractions."""
    monkeypatch.setattr(databases, "BATCH_ROWS", 2)
    query = "SELECT * FROM (VALUES (NULL, 1), (NULL, 2), ('x', 3.5)) AS t"
    table = sql(query, url=trips)
    assert [column.to_pylist() for column in table.columns] == [[None, None, "x"], [1.0, 2.0, 3.5]]


def test_postgresql_types_have_their_arrow_types() -> None:
    """On a real server: times with zones, decimals, documents, identifiers, bytes, arrays."""
    server = shared()
    url = f"postgresql+psycopg://tester@/postgres?host={server.folder}&port={server.port}"
    table = sql(
        "SELECT 1::bigint AS i, 1.50::numeric AS d, 'a'::text AS t, DATE '2024-02-29' AS day, '{\"a\": 1}'::jsonb AS doc,"
        " TIMESTAMPTZ '2024-02-29 12:00+00' AS at, '\\x01'::bytea AS b, ARRAY[1, 2] AS some,"
        " '00000000-0000-0000-0000-000000000001'::uuid AS id",
        url=url,
    )
    [row] = table.to_pylist()
    assert row["at"] == datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    assert (row["i"], row["d"], row["t"], row["b"]) == (1, Decimal("1.50"), "a", b"\x01")
    assert (row["day"], row["doc"], row["some"]) == (datetime.date(2024, 2, 29), '{"a": 1}', [1, 2])
    assert row["id"] == "00000000-0000-0000-0000-000000000001"


def test_postgresql_types_are_there_without_values() -> None:
    """No rows, or rows of NULLs: each column has the type that the same query has with values."""
    server = shared()
    url = f"postgresql+psycopg://tester@/postgres?host={server.folder}&port={server.port}"
    columns = (
        "true AS yes, 1::smallint AS i, 1.5::real AS r, 'a'::varchar(3) AS v, 1.50::numeric(5, 2) AS d, DATE '2024-02-29' AS day,"
        " '{}'::jsonb AS doc, TIMESTAMPTZ '2024-02-29 12:00+00' AS at, TIMESTAMP '2024-02-29 12:00' AS local, TIME '12:00' AS t,"
        " INTERVAL '1 h' AS long, '\\x01'::bytea AS b, ARRAY[1, 2] AS numbers, ARRAY['a'] AS words,"
        " '00000000-0000-0000-0000-000000000001'::uuid AS id"
    )
    full = sql(f"SELECT {columns}", url=url).schema
    # Arrow takes the precision of decimals from the values; without any it is the column's.
    full = full.set(full.get_field_index("d"), pa.field("d", pa.decimal128(5, 2)))
    assert sql(f"SELECT {columns} WHERE false", url=url).schema == full
    assert (
        sql(f"SELECT one.* FROM (VALUES (1)) AS x LEFT JOIN (SELECT {columns}) AS one ON false", url=url).schema == full
    )
    assert sql("SELECT 1::numeric AS n WHERE false", url=url).schema.field("n").type == pa.null()


def test_the_url_of_a_connection_is_not_recorded(engine: Engine, trips: str) -> None:
    """Only its name is: it may hold a password, and be another one tomorrow."""
    run = engine.start(distance, 1)
    run.result()
    record = engine.store.find_run(run.id)
    calls = [call.call for call in engine.store.recorded_calls(record.number)]
    assert any(b"trips" in call for call in calls)
    assert not any(b"trips.db" in call for call in calls)


def test_a_url_with_a_password_is_refused() -> None:
    """One line, which does not repeat it."""
    with pytest.raises(BadArguments, match="would be recorded: set DAGENGINE_CONNECTION_NAME to it") as refused:
        sql("SELECT 1", url="postgresql://me:hush@db/sales")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name the database"),
        ({"url": "sqlite://", "connection": "x"}, "name the database"),
        ({"url": "no url"}, "the url is none"),
        ({"connection": "a b"}, "has to be a name"),
        ({"connection": "nowhere"}, "set DAGENGINE_CONNECTION_NOWHERE"),
        ({"connection": "x", "conn_id": "x"}, "name the database"),
        ({"conn_id": "a b"}, "has to be the id of a connection"),
        ({"conn_id": "x" * 251}, "has to be the id of a connection"),
        ({"conn_id": ""}, "has to be the id of a connection"),
        ({"url": "nosuch://db/x"}, "nosuch"),
    ],
)
def test_a_database_that_is_not_there_gets_one_line(given: dict[str, str], message: str) -> None:
    """Said where the query is called, or by its step."""
    with pytest.raises((BadArguments, SqlFailed), match=message) as refused:
        sql("SELECT 1", **given)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_outside_of_airflow_the_id_of_a_connection_is_a_url_too(
    engine: Engine, trips: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same workflow runs in Airflow and where there is none; an id may have dots and dashes, a variable may not."""
    monkeypatch.setenv("DAGENGINE_CONNECTION_MY_TRIPS_DB", trips)
    run = engine.start(by_id)
    assert run.result() == [3]
    [call] = engine.store.recorded_calls(engine.store.find_run(run.id).number)
    assert b"my-trips.db" in call.call
    assert b"sqlite" not in call.call


@pytest.mark.skipif(find_spec("airflow") is not None, reason="Airflow is here, and says it itself")
def test_the_id_of_a_connection_that_nobody_knows_says_what_to_set(engine: Engine) -> None:
    """Also where the worker has to ask its engine."""
    with pytest.raises(RunFailed, match=r"set DAGENGINE_CONNECTION_MY_TRIPS_DB to the database's URL \(Airflow.* not"):
        engine.start(by_id).result()


def test_parameters_that_do_not_fit_are_named(trips: str) -> None:
    """Those that are missing, and those that the query does not have."""
    with pytest.raises(BadArguments, match="month missing; moth not in it"):
        sql("SELECT * FROM trip WHERE month = :month", url=trips, params={"moth": 1})
    with pytest.raises(BadArguments, match=r"give it to sql\.execute"):
        sql("DELETE FROM trip", url=trips)


def test_what_the_database_refuses_is_the_steps_failure(engine: Engine, trips: str) -> None:
    """Its own words, in one line; and a connection that is not set says what to set."""
    with pytest.raises(RunFailed, match="the database refused: no such table: nowhere"):
        engine.start(wrong).result()
    with pytest.raises(RunFailed, match="set DAGENGINE_CONNECTION_NOWHERE"):
        engine.start(elsewhere).result()


def test_queries_survive_every_crash(everywhere: Everywhere, trips: str) -> None:
    """The table is recorded like any value."""
    for report in everywhere(distance, 1).values():
        assert report.result == 6.5
