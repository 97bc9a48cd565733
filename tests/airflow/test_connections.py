"""`dagengine.sql(..., conn_id=)` through the hooks of real providers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dagengine import Engine, RunFailed, get, sql, stateful, task, workflow
from dagengine.errors import BadArguments


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A database with two orders, under a name that stands in no code."""
    file = tmp_path / f"{tmp_path.name[::-1]}.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER, price REAL)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(1, 2.5), (2, 4.0)])
    connection.close()
    return file


@pytest.fixture
def shop(place: Path) -> str:
    """The Airflow connection to it, as JSON."""
    return json.dumps({"conn_type": "sqlite", "host": str(place)})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One that is older than the connections: they are not in its workers' environment."""
    folder = tmp_path_factory.mktemp("engine")
    with Engine(folder / "store.db", home=folder, workers=1) as opened:
        assert opened.start(warmed).result() == 1
        yield opened


@task
def one() -> int:
    return 1


@workflow
def warmed() -> int:
    return one()


@workflow
def revenue(least: float) -> float:
    gone = sql.execute("DELETE FROM orders WHERE price < :least", conn_id="shop", params={"least": least})
    assert get(gone) == 1
    return total(sql("SELECT price FROM orders", conn_id="shop"))


@task
def total(table: pa.Table) -> float:
    return float(sum(table["price"].to_pylist()))


@stateful
class Till:
    def __init__(self) -> None:
        self.seen = 0

    def count(self) -> int:
        self.seen += sql("SELECT count(*) AS n FROM orders", conn_id="shop")["n"][0].as_py()
        return self.seen


@workflow
def counted() -> int:
    till = Till()
    till.count()
    return till.count()


def test_a_query_goes_through_the_hook_of_its_connection(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a run, too; what Airflow has in the environment is enough."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", shop)
    table = sql("SELECT id FROM orders WHERE price > :least", conn_id="shop", params={"least": 3})
    assert table["id"].to_pylist() == [2]


def test_workers_ask_their_engine_what_a_connection_is(
    engine: Engine, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside an Airflow task only the task's own process is answered. Methods of stateful objects may ask as well."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", shop)
    run = engine.start(revenue, 3.0)
    assert run.result() == 4.0
    assert [step.key for step in run.steps()] == ["revenue/sql.execute[0]", "revenue/sql[0]", "revenue/total[0]"]
    assert engine.start(counted).result() == 2


def test_what_a_connection_is_gets_neither_recorded_nor_logged(
    shop: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the level at which hooks log the URL: nothing under the engine's home or in its store has it."""
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", shop)
    with Engine(tmp_path / "store.db", home=tmp_path / "home", workers=1) as engine:
        assert engine.start(revenue, 3.0).result() == 4.0
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and file != place]
    assert [file for file in kept if b"Connection Retrieved" in file.read_bytes()], "nothing was logged at that level"
    assert not [file for file in kept if place.name.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (None, r"there is no connection shop in Airflow, nor in DAGENGINE_CONNECTION_"),
        ({"conn_type": "nosuch", "host": "db"}, "of type 'nosuch', whose hook can't be had here"),
        ({"conn_type": "smtp", "host": "mail"}, "of type 'smtp', whose hook SmtpHook speaks no SQL"),
        ({"conn_type": "sqlite", "host": "/nowhere/x.db"}, "the database refused: unable to open"),
    ],
)
def test_a_connection_that_is_of_no_use_gets_one_line(
    engine: Engine, described: dict[str, str] | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step fails with it."""
    if described is not None:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(described))
    with pytest.raises(RunFailed, match=message) as failed:
        engine.start(revenue, 3.0).result()
    assert "\n" not in str(failed.value.__cause__)


def test_what_can_be_no_connection_is_refused_where_it_is_said() -> None:
    """An id of Airflow's has letters, digits, dots, dashes."""
    with pytest.raises(BadArguments, match="has to be the id of a connection"):
        sql("SELECT 1", conn_id="a/b")
