"""A DAG around a workflow: `measure` runs it, `measured` follows a part of it, `report` is given what it returned.

Put this file and largest_sections.py into Airflow's DAGs folder. Airflow runs three tasks; the 61 steps of the workflow are
dagengine's, and are recorded in its store: clear `measure`, or kill it half-way, and none that has finished runs again.
"""

from airflow.sdk import DAG, task

from dagengine.airflow_plugin import DagengineOperator, DagengineSensor

with DAG("debian_sections", schedule=None, params={"count": 3}, doc_md=__doc__, tags=["dagengine"]) as dag:
    measure = DagengineOperator(
        task_id="measure",
        workflow="largest_sections.py:largest_sections",
        arguments={"count": dag.param("count")},
    )

    DagengineSensor(task_id="measured", run_of="measure", step="largest_sections/measure.map[0]", mode="reschedule")

    @task
    def report(found: list[dict[str, object]]) -> str:
        """What the task that ran the workflow has returned, as any XCom."""
        return ", ".join(f"{one['section']} ({one['gb']} GB)" for one in found)

    report(measure.output)
