"""The provider in a running Airflow, asked over its API as its pages do: the connection's form, the Test button, the link."""

from __future__ import annotations

from pathlib import Path

from dagengine.client import Client
from tests.airflow.stack import UI_URL, Stack


def test_the_connection_form_has_the_providers_fields(stack: Stack) -> None:
    """Labelled, described, and with the standard fields that we renamed."""
    [form] = [form for form in stack.get_ui("connections/hook_meta") if form["connection_type"] == "dagengine"]
    assert form["hook_class_name"] == "dagengine.airflow_plugin.hook.DagengineHook"
    assert sorted(form["extra_fields"]) == ["artifacts", "home", "python", "schema_name", "store"]
    for field in form["extra_fields"].values():
        assert field["schema"]["title"]
        assert field["description"]
    assert form["standard_fields"]["url_schema"]["title"] == "Database"
    assert "/srv/dagengine/store.db" in form["standard_fields"]["host"]["placeholder"]


def test_the_test_button_works_in_a_running_airflow(stack: Stack, tmp_path: Path) -> None:
    """On what is in the form: nothing has to be saved first."""
    file = tmp_path / "runs.db"
    form = {"connection_id": "of_a_test", "conn_type": "dagengine", "host": str(file)}
    assert stack.post("connections/test", form) == {
        "status": True, "message": "There is no store yet. The first run makes it.",
    }  # fmt: skip
    with Client(file) as client:
        client.submit(f"{Path(__file__).parent.parent / 'client_flows.py'}:doubled", (4,))
    told = stack.post("connections/test", form)
    assert (told["status"], told["message"].endswith("1 run")) == (True, True)
    wrong = {**form, "host": "127.0.0.1", "port": 1, "schema": "runs", "login": "me", "password": "hush-hush"}
    told = stack.post("connections/test", wrong)
    assert (told["status"], "can't be reached" in told["message"], "hush" in told["message"]) == (False, True, False)


LINKED = """
from airflow.sdk import DAG
from dagengine.airflow_plugin import DagengineOperator

with DAG(DAG_ID, schedule=None):
    DagengineOperator(task_id="one", workflow="FILE:doubled", arguments={"x": 4}, workers=1)
    DagengineOperator(task_id="never", workflow="FILE:nothing", workers=1, retries=0)
"""


def test_the_link_of_a_task_leads_to_its_run(stack: Stack) -> None:
    """Nothing is linked for a task that failed before it had a run, and its log has no error about that."""
    flows = Path(__file__).parent.parent / "client_flows.py"
    run = stack.trigger(stack.deploy(LINKED.replace("FILE", str(flows))))
    assert stack.await_end(run) == "failed"
    assert stack.states(run) == {"one": "success", "never": "failed"}
    run_id = stack.xcom(run, "one", "dagengine_run_id")
    assert stack.links(run, "one") == {"dagengine run": UI_URL.replace("{run_id}", run_id)}
    assert stack.links(run, "never") == {"dagengine run": None}
    assert "operator extra link" not in stack.log(run, "never")
