"""`@task.dagengine`: a TaskFlow function is a workflow's body."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dagengine import Client
from tests.airflow.world import Dags


@pytest.fixture(autouse=True)
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of the store in which the runs are."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_DAGENGINE_DEFAULT", json.dumps({"conn_type": "dagengine", "host": str(tmp_path / "runs.db")})
    )
    return Client(tmp_path / "runs.db", home=tmp_path / "home")


NESTED = """
from airflow.sdk import dag, task
import dagengine
from dagengine import get, workflow

@dagengine.task
def double(x):
    return 2 * x

@dagengine.task
def add(*numbers):
    return sum(numbers)

@workflow
def tripled(x: int):
    return add(double(x), x)

@dag(DAG_ID, schedule=None)
def made():
    @task
    def numbers():
        return [1, 2, 3]

    @task.dagengine(workers=1)
    def doubled(found: list[int], ds=None, *, more: int = 0):
        if get(add(*found)) > 5:
            more = more + 1
        return add(*[double(x) for x in found], more)

    @task.dagengine(workers=1)
    async def half(total: int, dag_run_id=None):
        return get(add(total, -total // 2))

    half(doubled(numbers(), more=10))
    task.dagengine(tripled, workers=1).override(task_id="three")(x=5)

made()
"""


def test_the_functions_body_is_the_workflows(dags: Dags, client: Client) -> None:
    """Tasks that it calls are steps of a durable run; arguments come from other tasks, and its result goes to others. Sync
    and async, in the function of a DAG; the tasks in the DAG's own file."""
    ran = dags.run(NESTED)
    assert ran.state == "success", ran.output
    assert (ran.xcom("doubled"), ran.xcom("half"), ran.xcom("three")) == (23, 11, 15)
    with client:
        keys = {step.key for step in client.steps(ran.xcom("doubled", "dagengine_run_id"))}
    assert keys == {"doubled/add[0]", "doubled/double[0]", "doubled/double[1]", "doubled/double[2]", "doubled/add[1]"}


MODULE = """
from pathlib import Path
from airflow.sdk import DAG, task
import dagengine

@dagengine.task
def note(word):
    with open(FILE, "a") as notes:
        notes.write(word + " ")
    return word

with DAG(DAG_ID, schedule=None):
    @task.dagengine(workers=1, retries=1, retry_delay=0)
    def train(word: str, ds=None, ti_key=""):
        first = note(word)
        if dagengine.get(broken(first)):
            return note("after")

    @dagengine.task
    def broken(word):
        if not Path(FILE + ".mended").exists():
            Path(FILE + ".mended").touch()
            raise ValueError("once")
        return True

    train.expand(word=["a", "b"])
"""


def test_a_retry_goes_on_with_the_run_of_a_function_by_value(dags: Dags, client: Client, tmp_path: Path) -> None:
    """Mapped, at the top of the DAG's file: each item has a run, which a retry resumes. No step that has ended is repeated."""
    file = tmp_path / "notes"
    ran = dags.run(MODULE.replace("FILE", repr(str(file))))
    assert ran.state == "success", ran.output
    assert sorted(file.read_text().split()) == ["a", "after", "after", "b"]
    assert sorted(ran.task("train", index).try_number for index in (0, 1)) == [1, 2]
    assert [ran.xcom("train", map_index=index) for index in (0, 1)] == ["after", "after"]


REFUSED = """
from airflow.sdk import DAG, task

with DAG(DAG_ID, schedule=None):
    @task.dagengine(retries=0)
    def objects(ti=None):
        return 1

    @task.dagengine(retries=0)
    def given(ds=None, logical_date=None, day=""):
        return [ds, logical_date.tzinfo is not None if logical_date else None, day]

    objects()
    given(day="{{ ds }}")
"""


def test_airflows_variables_are_arguments_if_they_can_be_recorded(dags: Dags) -> None:
    """Texts and times; an object of Airflow's is refused in one line."""
    ran = dags.run(REFUSED)
    assert ran.states() == {"objects": "failed", "given": "success"}
    assert "ti is an object of Airflow's, which can't be recorded with a run" in ran.output
    ds, aware, day = ran.xcom("given")
    assert ds == day
    assert aware is True
