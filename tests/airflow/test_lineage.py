"""What those who follow data are told: asset events with the run's id, and OpenLineage's events as its provider sends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.world import PROCESS_SECONDS, Dags

FLOW = """
from dagengine import task, workflow

@task
def one(fails):
    if fails:
        raise ValueError("not today")
    return 1

@workflow
def traced(fails: bool = False):
    return one(fails)
"""

DAG = """
from airflow.sdk import Asset, DAG
from dagengine.airflow_plugin import DagengineOperator

with DAG(DAG_ID, schedule=None, default_args={"retries": 0}):
    flow = {"workflow": "FLOW:traced", "store": "STORE", "workers": 1}
    DagengineOperator(task_id="good", outlets=[Asset("dagengine://dagengine_default/traced/")], **flow)
    DagengineOperator(task_id="bad", arguments={"fails": True}, **flow)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A DAG of a task that succeeds and has an outlet, and one that fails."""
    flow = tmp_path / "traced_by_tests.py"
    flow.write_text(FLOW)
    return DAG.replace("FLOW", str(flow)).replace("STORE", str(tmp_path / "runs.db"))


def test_the_event_of_an_asset_says_which_run_has_made_it(dags: Dags, source: str) -> None:
    """And its URI is written in one way, however the DAG writes it."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    ran = dags.run(source)
    assert ran.states() == {"good": "success", "bad": "failed"}
    with create_session() as session:
        query = select(AssetModel.uri, AssetEvent.extra).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        events = session.execute(query.where(AssetEvent.source_dag_id == ran.dag_run.dag_id)).all()
    assert [tuple(event) for event in events] == [
        ("dagengine://dagengine_default/traced", {"dagengine_run_id": ran.xcom("good", "dagengine_run_id")})
    ]


@pytest.mark.parametrize(
    "uri", ["dagengine:///traced", "dagengine://dagengine_default", "dagengine://a:b@store/traced"]
)
def test_an_asset_without_a_connection_or_workflow_is_refused(uri: str) -> None:
    """When the DAG is parsed, by Airflow's own check; a password has no place in it."""
    from urllib.parse import urlsplit

    from dagengine.airflow_plugin.lineage import sanitize_uri

    with pytest.raises(ValueError, match="dagengine://CONNECTION/WORKFLOW"):
        sanitize_uri(urlsplit(uri))


def test_openlineage_is_told_which_run_it_was_and_how_it_ended(dags: Dags, source: str, tmp_path: Path) -> None:
    """Airflow's provider for it sends the events; `airflow dags test` works the DAG off with it."""
    dag_id, told = dags.write(source), tmp_path / "events.json"
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", dag_id],
        env={
            **os.environ,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(told), "append": True}),
        },
        capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False,
    )  # fmt: skip
    assert told.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    events: list[dict[str, Any]] = [json.loads(line) for line in told.read_text().splitlines() if line]
    ended = {
        event["job"]["name"].rpartition(".")[2]: event for event in events if event["eventType"] in ("COMPLETE", "FAIL")
    }
    good, bad = ended["good"], ended["bad"]
    assert (good["eventType"], bad["eventType"]) == ("COMPLETE", "FAIL")
    run = good["run"]["facets"]["dagengine"]
    assert (run["workflow"], run["state"], run["steps"]) == ("traced", "succeeded", {"succeeded": 1})
    assert bad["run"]["facets"]["dagengine"]["state"] == "failed"
    assert [(output["namespace"], output["name"]) for output in good["outputs"]] == [
        ("dagengine://dagengine_default", "traced")
    ]
