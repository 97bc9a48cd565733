"""Deferred tasks in the whole of Airflow: the triggerer waits, dies, and another one goes on; a person ends the task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from dagengine import Client, Engine
from dagengine.model import RunState
from tests.airflow.stack import SOON, DagRun, Stack, wait_until

HELD = """
from dagengine import get, task, wait_event, workflow

@task
def note(file, word):
    with open(file, "a") as notes:
        notes.write(word + "\\n")
    return word

@workflow
def held(file):
    get(note(file, "before"))
    wait_event("go")
    return get(note(file, "after"))

@workflow
def once():
    return note("/dev/null", "once")
"""

DAG = """
from airflow.sdk import DAG
from dagengine.airflow_plugin import DagengineOperator, DagengineSensor

with DAG(DAG_ID, schedule=None):
    DagengineOperator(
        task_id="run", workflow="held_by_tests:held", retries=0, arguments={"file": "{{ dag_run.conf['file'] }}"},
        where="serve", deferrable=True, defer_after=0,
    )
    DagengineSensor(task_id="step", run_of="run", step="held/note[0]", deferrable=True, SOON)
    DagengineSensor(task_id="end", run_of="run", deferrable=True, SOON)
""".replace("SOON", SOON)


LATE = """
from datetime import timedelta
from airflow.sdk import DAG
from dagengine.airflow_plugin import DagengineOperator

with DAG(DAG_ID, schedule=None):
    DagengineOperator(
        task_id="run", workflow="held_by_tests:held", retries=0, arguments={"file": "/dev/null"},
        where="serve", deferrable=True, defer_after=0, execution_timeout=timedelta(seconds=90),
    )
"""
"""A task that has to have gone to the triggerer when its time is over, also on a busy machine."""


@pytest.fixture(scope="module")
def served(stack: Stack) -> Iterator[None]:
    """A server works on the runs."""
    stack.module("held_by_tests", HELD)
    with stack.serving():
        yield


@pytest.fixture(scope="module")
def late(stack: Stack, served: None) -> DagRun:
    """A DAG run whose task waits until it is out of time, while the other tests do what they do."""
    return stack.trigger(stack.deploy(LATE))


@pytest.fixture(scope="module")
def dag_id(stack: Stack, late: DagRun) -> str:
    """A DAG with a run that waits for a word, and sensors that wait for it."""
    return stack.deploy(DAG)


def begun(stack: Stack, dag_id: str, file: Path) -> tuple[DagRun, str]:
    """A DAG run all of whose tasks that can be are deferred, and the id of its run."""
    run = stack.trigger(dag_id, {"file": str(file)})
    stack.await_task(run, "step", "success")
    for task_id in ("run", "end"):
        attempt = stack.await_task(run, task_id, "deferred")["try_number"]
        # Airflow asks nothing of a trigger that no triggerer has begun yet, also not to end what it waits for.
        what = partial(stack.log, run, task_id, attempt)
        wait_until(lambda what=what: ") starting" in what(), f"the trigger of {task_id} begins")  # type: ignore[misc]
    return run, str(stack.xcom(run, "run", "dagengine_run_id"))


def say_go(stack: Stack, run_id: str) -> None:
    with Engine(stack.store, home=stack.home / "dagengine") as engine:
        engine.signal(run_id, "go")


def run_state(stack: Stack, run_id: str) -> RunState:
    with Client(stack.store, home=stack.home / "dagengine") as client:
        return client.state(run_id)


def test_a_deferred_task_outlives_its_triggerer(stack: Stack, dag_id: str, tmp_path: Path) -> None:
    """Killed by SIGKILL while tasks wait in it: another one goes on with the same run. No try is lost, no step is repeated."""
    run, run_id = begun(stack, dag_id, tmp_path / "notes")
    tries = [stack.task(run, task_id)["try_number"] for task_id in ("run", "step", "end")]
    stack.restart_triggerer()
    say_go(stack, run_id)
    assert stack.await_end(run) == "success"
    assert (tmp_path / "notes").read_text().split() == ["before", "after"]
    assert stack.xcom(run, "run") == "after"
    assert [stack.task(run, task_id)["try_number"] for task_id in ("run", "step", "end")] == tries
    with Client(stack.store, home=stack.home / "dagengine") as client:
        mine = [each for each in client.store.find_runs([run_id]).values() if each.id == run_id]
        assert [each.facts["airflow"]["run_id"] for each in mine] == [run.run_id]


def test_a_person_who_ends_a_deferred_task_ends_its_run(stack: Stack, dag_id: str, tmp_path: Path) -> None:
    """Marked as failed in the UI: the run is cancelled. Marking a sensor ends nothing but the sensor."""
    run, run_id = begun(stack, dag_id, tmp_path / "notes")
    stack.mark(run, "end", "success")
    stack.await_task(run, "end", "success")
    wait_until(lambda: run_state(stack, run_id) is RunState.WAITING, "the run waits for its word")
    stack.mark(run, "run", "failed")
    wait_until(lambda: run_state(stack, run_id) is RunState.CANCELLED, "the run is cancelled")
    assert (tmp_path / "notes").read_text().split() == ["before"]


DECORATED = """
from airflow.sdk import dag, task
import dagengine
from dagengine.airflow_plugin import DagengineOperator

@dagengine.task
def double(x):
    return 2 * x

@dag(DAG_ID, schedule=None, default_args={"retries": 20, "retry_delay": 1})
def made():
    @task.dagengine(workers=1)
    def here(x: int):
        return double(x)

    @task.dagengine(where="serve", deferrable=True, defer_after=0)
    def there(x: int):
        if dagengine.get(double(x)) > 10:
            return double(double(x))

    there(here(3))
    DagengineOperator(
        task_id="elsewhere", workflow="held_by_tests:once", where="serve", deferrable=True, defer_after=0, python=PYTHON
    )

made()
"""


def test_a_taskflow_function_is_a_workflow_here_and_on_a_server(stack: Stack, dag_id: str) -> None:
    """By value, out of the function of a DAG; its steps are in the DAG's own file, which workers and hosts are given with it."""
    run = stack.trigger(stack.deploy(DECORATED.replace("PYTHON", repr(sys.executable))))
    assert stack.await_end(run) == "success", stack.log(run, "here") + stack.log(run, "there")
    assert (stack.xcom(run, "here"), stack.xcom(run, "there")) == (6, 24)
    assert stack.xcom(run, "elsewhere") == "once"  # deferred in another environment: asked by its interpreter


def test_a_deferred_task_that_is_out_of_time_ends_its_run(stack: Stack, late: DagRun) -> None:
    """`execution_timeout` counts while the task waits in the triggerer, and what is said is said by the task."""
    assert stack.await_end(late) == "failed"
    run_id = stack.xcom(late, "run", "dagengine_run_id")
    wait_until(lambda: run_state(stack, run_id) is RunState.CANCELLED, "the run is cancelled")
    assert "execution_timeout was over" in stack.log(late, "run")
