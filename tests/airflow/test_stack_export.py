"""An exported DAG, and a connection of Airflow's, with all of Airflow's processes at work."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dagengine.airflow_plugin.export import export
from dagengine.airflow_plugin.export_file import Wanted
from dagengine.airflow_plugin.export_text import Code, text
from dagengine.workflows import load
from tests.airflow.stack import SOON, Stack

pytestmark = pytest.mark.xdist_group("stack")

FLOWS = Path(__file__).parent / "export_flows.py"

PRICED = f"""
from airflow.sdk import DAG
from dagengine.airflow_plugin import DagengineOperator

with DAG(DAG_ID, schedule=None):
    DagengineOperator(task_id="priced", retries=0, workflow={f"{FLOWS}:priced"!r})
"""


def test_steps_are_seen_to_end_while_the_run_goes_on(stack: Stack, tmp_path: Path) -> None:
    """The tasks of a mirror run side by side with the one that runs the workflow."""
    into, gate = tmp_path / "lines", tmp_path / "gate"
    wanted = Wanted(Code(text(str(FLOWS))), "export_flows.py:held", dag_id="its_id")
    made = export(load(f"{FLOWS}:held"), {"into": str(into), "gate": str(gate)}, wanted)
    source = made.text.replace('"its_id"', "DAG_ID").replace('mode="reschedule"', f'mode="reschedule", {SOON}')
    run = stack.trigger(stack.deploy(source))
    stack.await_task(run, "part", "success")
    assert stack.task(run, "run")["state"] == "running"
    assert stack.task(run, "hold")["state"] not in ("success", "failed", "skipped", "upstream_failed")
    gate.touch()
    assert stack.await_end(run) == "success"
    assert stack.states(run) == dict.fromkeys(["run", "part", "hold"], "success")


def test_a_query_goes_through_a_connection_of_the_metadata_database(stack: Stack, tmp_path: Path) -> None:
    """Which only the process of an Airflow task may ask for: the worker that runs the query asks that process."""
    place = tmp_path / "orders.db"
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(1,), (2,)])
    connection.close()
    stack.post("connections", {"connection_id": "shop_of_a_test", "conn_type": "sqlite", "host": str(place)})
    run = stack.trigger(stack.deploy(PRICED))
    assert stack.await_end(run) == "success", stack.log(run, "priced")
    assert stack.xcom(run, "priced") == 2
