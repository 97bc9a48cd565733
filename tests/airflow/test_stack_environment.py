"""The whole Airflow of these tests does what the other tests of the stack lean on."""

from __future__ import annotations

from tests.airflow.stack import Stack

ADDS = """
import os, signal
from airflow.sdk import dag, task, get_current_context

@dag(DAG_ID, schedule=None)
def made():
    @task
    def one(x):
        print("here is", x)
        return x + 1

    @task(retries=1, retry_delay=0)
    def dies(found):
        if get_current_context()["ti"].try_number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(found)

    dies(one.expand(x=[1, 2]))

made()
"""


def test_a_dag_runs_in_processes_of_its_own(stack: Stack) -> None:
    """States, XComs and logs are at hand; a task that is killed is tried again."""
    run = stack.trigger(stack.deploy(ADDS))
    assert stack.await_end(run) == "success"
    assert stack.states(run) == {"one[0]": "success", "one[1]": "success", "dies": "success"}
    assert (stack.xcom(run, "one", map_index=1), stack.xcom(run, "dies")) == (3, 5)
    assert stack.xcom(run, "dies", "nothing") is None
    assert "here is 1" in stack.log(run, "one", map_index=0)
    assert stack.task(run, "dies")["try_number"] == 2
