"""The tests' own Airflow does what the other tests here lean on."""

from __future__ import annotations

from tests.airflow.world import Dags

ADDS = """
from airflow.sdk import dag, task

@dag(DAG_ID, schedule=None)
def made():
    @task
    def one(x):
        print("here is", x)
        return x + 1

    @task(retries=0)
    def fails(found):
        raise ValueError(f"no {list(found)}")

    fails(one.expand(x=[1, 2]))

made()
"""


def test_a_dag_runs_in_this_process(dags: Dags) -> None:
    """States, XComs and output of its tasks are at hand."""
    ran = dags.run(ADDS)
    assert ran.state == "failed"
    assert ran.states() == {"one[0]": "success", "one[1]": "success", "fails": "failed"}
    assert [ran.xcom("one", map_index=index) for index in (0, 1)] == [2, 3]
    assert ran.xcom("fails") is None
    assert "here is 1" in ran.output
    assert "ValueError: no [2, 3]" in ran.output
