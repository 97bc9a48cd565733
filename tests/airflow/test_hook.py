"""`DagengineHook` on real stores: runs by Airflow's connection, the Test button, and common-sql's operators on the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagengine import RunState
from dagengine.airflow_plugin import DagengineHook
from dagengine.engine import Engine
from dagengine.errors import BadArguments, StoreUnavailable
from dagengine.runtime import InlineRuntime
from tests.airflow.world import Dags
from tests.postgres.server import fresh_schema, shared

FLOWS = Path(__file__).parent.parent / "client_flows.py"


@pytest.fixture(params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fields of the connection dagengine_default, of a store that is not there yet."""
    if request.param == "sqlite":
        fields: dict[str, Any] = {"host": str(tmp_path / "runs.db")}
    else:
        fields = {"extra": {"store": shared().url(fresh_schema()), "home": str(tmp_path)}}
    monkeypatch.setenv("AIRFLOW_CONN_DAGENGINE_DEFAULT", json.dumps({"conn_type": "dagengine", **fields}))
    return fields


def succeeds(hook: DagengineHook, x: int = 4) -> str:
    """The id of a run that has ended."""
    run_id = hook.submit(f"{FLOWS}:doubled", {"x": x})
    with Engine(**hook.store_options(), runtime=InlineRuntime()) as engine:
        engine.resume(run_id).wait()
    return run_id


def test_runs_are_submitted_watched_and_read_through_a_connection(connection: dict[str, Any]) -> None:
    """What a task of a DAG, or a script, does with the hook."""
    with DagengineHook() as hook:
        run_id = hook.submit(f"{FLOWS}:doubled", {"x": 4}, run_id="of-a-dag")
        assert hook.state(run_id) is RunState.PENDING
        assert hook.cancel(run_id) is RunState.CANCELLED
        assert hook.resume(run_id)
        with Engine(**hook.store_options(), runtime=InlineRuntime()) as engine:
            engine.resume(run_id).wait()
        assert hook.states([run_id, "nobody"]) == {run_id: RunState.SUCCEEDED}
        assert hook.result(run_id) == 8


def test_an_xcom_that_stands_for_a_result_is_read(connection: dict[str, Any], tmp_path: Path) -> None:
    """By the hook of its store, or of any other; a plain value is itself."""
    with DagengineHook() as hook:
        run_id = succeeds(hook)
        assert hook.read({"__dagengine__": 1, "conn_id": "dagengine_default", "run": run_id}) == 8
        assert hook.read({"rows": 3}) == {"rows": 3}
        with pytest.raises(BadArguments, match="is no reference"):
            hook.read({"__dagengine__": 2, "run": run_id})
    with DagengineHook(store=tmp_path / "another.db") as other:
        assert other.read({"__dagengine__": 1, "conn_id": "dagengine_default", "run": run_id}) == 8


def test_the_test_button_says_what_is_there(connection: dict[str, Any]) -> None:
    """Nothing is made by it; then the schema and the number of runs."""
    hook = DagengineHook()
    assert hook.test_connection() == (True, "There is no store yet. The first run makes it.")
    assert hook.test_connection() == (True, "There is no store yet. The first run makes it.")
    succeeds(hook)
    works, said = hook.test_connection()
    assert works
    assert said.endswith("1 run")
    assert "schema 00" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "/proc/nowhere/deep/runs.db"}, "can't be made: there is no folder"),
        ({"host": __file__}, "is not a database"),
        ({"host": "127.0.0.1", "port": 1, "schema": "runs", "password": "hush-hush"}, "can't be reached"),
        ({"extra": {"store": "mysql://me:hush-hush@db/runs"}}, "mysql: stores can't be opened"),
        ({"schema": "runs", "password": "hush-hush"}, "no host"),
    ],
)
def test_the_test_button_says_in_one_line_what_is_wrong(
    fields: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps the password to itself."""
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps({"conn_type": "dagengine", **fields}))
    works, told = DagengineHook("wrong").test_connection()
    assert (works, "\n" in told, "hush" in told) == (False, False, False)
    assert said in told


def test_a_connection_may_be_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment and most secrets backends have it."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_SERVER", "dagengine://me:p%2Fw@db.example:5433/runs?schema_name=nightly&home=%2Fsrv"
    )
    address = DagengineHook("server").address
    assert address.store == "postgresql://me:p%2Fw@db.example:5433/runs?schema=nightly"
    assert address.home == "/srv"
    monkeypatch.setenv("AIRFLOW_CONN_FILE", "dagengine://?store=%2Fsrv%2Fruns.db")
    assert DagengineHook("file").store_options() == {"store": "/srv/runs.db"}


def test_sql_reads_the_stores_tables_and_changes_nothing(connection: dict[str, Any]) -> None:
    """The hook is one of common-sql's; what is recorded is dagengine's alone to change."""
    hook = DagengineHook()
    with pytest.raises(StoreUnavailable) if connection.get("host") else pytest.raises(Exception, match="run"):
        hook.get_first("SELECT count(*) FROM run")
    run_id = succeeds(hook)
    assert hook.get_records("SELECT id, state FROM run") == [(run_id, "succeeded")]
    assert hook.get_first(f"SELECT count(*) FROM run WHERE id = {hook.placeholder}", (run_id,)) == (1,)
    for autocommit in (False, True):
        with pytest.raises(Exception, match=r"readonly|read-only"):
            hook.run("DELETE FROM run", autocommit=autocommit)
    engine = hook.get_sqlalchemy_engine()
    with engine.connect() as opened:
        assert opened.exec_driver_sql("SELECT count(*) FROM step").scalar() == 1
        with pytest.raises(Exception, match=r"readonly|read-only"):
            opened.exec_driver_sql("DELETE FROM step")
    engine.dispose()
    assert hook.dialect_name == ("sqlite" if connection.get("host") else "postgresql")


CHECKS = """
from airflow.providers.common.sql.operators.sql import SQLCheckOperator, SQLColumnCheckOperator, SQLExecuteQueryOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.sdk import DAG, task

with DAG(DAG_ID, schedule=None):
    waited = SqlSensor(
        task_id="waited", conn_id="dagengine_default", sql="SELECT count(*) FROM run WHERE state = 'succeeded'"
    )

    @task.sql(conn_id="dagengine_default", split_statements=False)
    def asked():
        return "SELECT workflow FROM run"

    count = SQLExecuteQueryOperator(
        task_id="count", conn_id="dagengine_default", sql="SELECT state, count(*) FROM run GROUP BY state"
    )
    check = SQLCheckOperator(task_id="check", conn_id="dagengine_default", sql="SELECT count(*) FROM run")
    column = SQLColumnCheckOperator(
        task_id="column", conn_id="dagengine_default", table="step", column_mapping={"attempts": {"max": {"leq_to": 1}}}
    )
    fails = SQLCheckOperator(
        task_id="fails", conn_id="dagengine_default", retries=0, sql="SELECT count(*) FROM run WHERE state = 'failed'"
    )
    waited >> asked() >> count >> check >> column >> fails
"""


def test_common_sqls_operators_run_on_the_store(dags: Dags, connection: dict[str, Any]) -> None:
    """So that a DAG can fail because of what yesterday's runs have recorded."""
    succeeds(DagengineHook())
    ran = dags.run(CHECKS)
    assert ran.states() == {
        **dict.fromkeys(["waited", "asked", "count", "check", "column"], "success"), "fails": "failed",
    }  # fmt: skip
    assert [list(row) for row in ran.xcom("asked")] == [["doubled"]]
    assert [list(row) for row in ran.xcom("count")] == [["succeeded", 1]]
