"""The provider as Airflow finds it: listed, its form's fields, links and configuration there, and light to import."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from dagengine.airflow_plugin.provider import get_provider_info
from tests.airflow.world import PROCESS_SECONDS, Dags

HEAVY = {
    "alembic",
    "dagengine.body",
    "dagengine.driver",
    "dagengine.engine",
    "dagengine.runtime",
    "dagengine.storage.postgres",
    "dagengine.storage.sqlite",
    "dagengine.storage.statements",
    "grpc",
    "networkx",
    "psycopg",
    "pyarrow",
    "sqlalchemy",
}
"""What parsing a DAG must not import: it happens every few seconds, for every DAG file."""


def airflow(*words: str) -> str:
    """What the command prints, warnings of Python's included."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-m", "airflow", *words],
        capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dagengine" not in done.stderr, done.stderr
    return done.stdout


def test_airflow_lists_the_provider_its_hook_and_its_links() -> None:
    """As its command line shows them, without a warning of ours on the way."""
    script = """
        import json
        from airflow.providers_manager import ProvidersManager
        manager = ProvidersManager()
        print(json.dumps({
            "version": manager.providers["dagengine"].version,
            "hook": manager.hooks["dagengine"].hook_class_name,
            "testable": manager.hooks["dagengine"].connection_testable,
            "conn_id": manager.hooks["dagengine"].connection_id_attribute_name,
            "links": [name for name in manager.extra_links_class_names if name.startswith("dagengine")],
            "fields": sorted(name for name in manager.connection_form_widgets if name.startswith("extra__dagengine")),
            "form": manager.field_behaviours["dagengine"],
        }))
    """
    found = json.loads(in_a_new_process(script)[-1])
    assert found["hook"] == "dagengine.airflow_plugin.hook.DagengineHook"
    assert (found["testable"], found["conn_id"]) == (True, "dagengine_conn_id")
    assert found["links"] == ["dagengine.airflow_plugin.links.RunLink"]
    assert [name.removeprefix("extra__dagengine__") for name in found["fields"]] == [
        "artifacts", "home", "python", "schema_name", "store",
    ]  # fmt: skip
    assert found["form"]["relabeling"]["schema"] == "Database"
    listed = airflow("providers", "list", "--output", "json")
    assert {"package_name": "dagengine", "version": found["version"]}.items() <= next(
        row for row in json.loads(listed) if row["package_name"] == "dagengine"
    ).items()


def test_whatever_the_provider_names_is_there() -> None:
    """Airflow imports it by these names, when it is used."""
    info = get_provider_info()
    modules = {name for part in ("hooks", "operators", "sensors", "triggers") for of in info.get(part, ())
               for name in of["python-modules"]}  # fmt: skip
    classes = [
        *(of["hook-class-name"] for of in info["connection-types"]),
        *info["extra-links"],
        *(of["class-name"] for of in info.get("task-decorators", ())),
        *(of[part] for of in info.get("asset-uris", ()) for part in ("handler", "factory", "to_openlineage_converter")
          if of.get(part)),
    ]  # fmt: skip
    assert modules
    for name in modules:
        importlib.import_module(name)
    for name in classes:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_description_fits_airflows_own_schema() -> None:
    """The one that Airflow holds providers against when it starts."""
    from pathlib import Path

    import airflow
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_configuration_has_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody wrote any of it; each setting can be given by the environment."""
    from airflow.sdk import conf

    from dagengine.airflow_plugin.links import run_links, run_url

    assert conf.get("dagengine", "ui_url") == ""
    assert (run_url("7f3a"), run_links()) == (None, ())
    monkeypatch.setenv("AIRFLOW__DAGENGINE__UI_URL", "https://runs.example/")
    assert run_url("7f/3a") == "https://runs.example/runs/7f%2F3a"
    assert len(run_links()) == 1
    monkeypatch.setenv("AIRFLOW__DAGENGINE__UI_URL", "https://runs.example/?run={run_id}")
    assert run_url("7f3a") == "https://runs.example/?run=7f3a"
    monkeypatch.setenv("AIRFLOW__DAGENGINE__UI_URL", "javascript:alert(1)")
    assert (run_url("7f3a"), run_links()) == (None, ())


def test_the_description_imports_nothing() -> None:
    """Airflow asks for it in every one of its processes."""
    script = """
        import sys
        before = set(sys.modules)
        from dagengine.airflow_plugin.provider import get_provider_info
        get_provider_info()
        print(*sorted(set(sys.modules) - before))
    """
    added = set(in_a_new_process(script)[-1].split())
    ours = {"dagengine", "dagengine.airflow_plugin", "dagengine.airflow_plugin.provider"}
    assert {name for name in added if name.split(".")[0] not in sys.stdlib_module_names} == ours


def test_parsing_a_dag_imports_nothing_heavy(dags: Dags) -> None:
    """Airflow itself is there already; what a DAG file adds by importing from us is thin, and warns of nothing.

    Counted, not timed: what is imported on a busy machine is the same as on an idle one. Some of what is heavy Airflow
    imports for itself; then it costs us nothing, and is not counted.
    """
    dag_id = dags.write("""
        from airflow.sdk import DAG
        from dagengine.airflow_plugin import DagengineOperator

        with DAG(DAG_ID, schedule=None):
            DagengineOperator(task_id="one", workflow="package.module:name", params={"x": 1})
    """)
    script = f"""
        import runpy, sys, warnings
        from airflow.sdk import DAG, BaseOperator, conf
        before = set(sys.modules)
        warnings.simplefilter("error")
        runpy.run_path({str(dags.folder / dag_id) + ".py"!r})
        print(*sorted(set(sys.modules) - before))
    """
    added = set(in_a_new_process(script)[-1].split())
    assert "dagengine.airflow_plugin.operators" in added
    assert not added & HEAVY
    ours = {name for name in added if name.startswith("dagengine")}
    assert len(ours) <= 25, sorted(ours)
    assert len(added - ours) <= 40, sorted(added - ours)


def in_a_new_process(script: str, **environment: str) -> list[str]:
    """The lines that it prints; what it prints to stderr may not speak of us."""
    import textwrap

    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(script)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dagengine" not in done.stderr, done.stderr
    return done.stdout.splitlines()
