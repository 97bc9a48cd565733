"""DAGs that `dagengine airflow export` writes, parsed and run by Airflow; and those that are in the documentation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dagengine.airflow_plugin.export import export
from dagengine.airflow_plugin.export_file import Wanted
from dagengine.airflow_plugin.export_text import Code, text
from dagengine.client import Client
from dagengine.outline import outline_of_run
from dagengine.workflows import load
from tests.airflow.world import ROOT, Dags, Ran

FLOWS = Path(__file__).parent / "export_flows.py"

STEPS = 5
"""Of `whole`, as it is called by default."""


def _source(name: str, mode: str = "mirror", recorded: Any = None, limit: int = 50, **given: Any) -> str:
    """The DAG's file. Its tasks are tried once, and looks come often: no waiting."""
    wanted = Wanted(Code(text(str(FLOWS))), "export_flows.py", dag_id="its_id", limit=limit)
    made = export(load(f"{FLOWS}:{name}"), given, wanted, mode, recorded).text
    made = made.replace('"its_id"', "DAG_ID").replace("schedule=None", 'schedule=None, default_args={"retries": 0}')
    return made.replace('mode="reschedule"', 'mode="reschedule", poke_interval=0.2')


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_mirror_shows_the_steps_of_one_run(dags: Dags, tmp_path: Path) -> None:
    """All of them are in one run, which the first task has made; each task that follows has what it followed."""
    into = tmp_path / "lines"
    ran = dags.run(_source("whole", into=str(into)))
    assert ran.states() == {
        "run": "success",
        "part_0": "success",
        "part_1": "success",
        "part_2": "success",
        "measured_0.large": "success",
        "length": "success",
    }
    assert ran.xcom("run") == "{{ bytes }}: 300000"
    assert ran.xcom("measured_0.large")["step"] == "whole/measured[0]/large[0]"
    assert ran.xcom("measured_0.large")["run"] == ran.xcom("run", "dagengine_run_id")
    assert _lines(into) == 3


def test_groups_of_steps_are_followed_as_one(dags: Dags, tmp_path: Path) -> None:
    """More steps than are followed one by one."""
    ran = dags.run(_source("whole", into=str(tmp_path / "lines"), count=60))
    assert ran.states() == dict.fromkeys(["run", "part", "measured_0.large", "length"], "success")
    assert _lines(tmp_path / "lines") == 60


def test_steps_that_a_run_does_not_have_are_skipped(dags: Dags, tmp_path: Path) -> None:
    """Another argument than the DAG was written for: one step has no call, and what comes after it is skipped, too."""
    path = tmp_path / "there"
    path.touch()
    ran = dags.run(_source("gated", path=str(path)), {"path": str(path), "further": False})
    assert ran.states() == {"run": "success", "refuse": "success", "double_0": "skipped", "double_1": "skipped"}
    assert ran.state == "success"


def test_a_step_that_fails_is_seen_where_it_is(dags: Dags, tmp_path: Path) -> None:
    """The task that runs fails, and the one that follows the step; what comes after is not to be seen as done."""
    ran = dags.run(_source("gated", path=str(tmp_path / "nowhere")))
    assert ran.states() == {
        "run": "failed",
        "refuse": "failed",
        "double_0": "upstream_failed",
        "double_1": "upstream_failed",
    }
    assert "gated/refuse[0]: FileNotFoundError: nobody has allowed it" in ran.output


def test_a_mirror_of_a_run_has_what_only_the_run_knew(dags: Dags, tmp_path: Path) -> None:
    """The body waits for a value before it calls the second step."""
    into = str(tmp_path / "lines")
    first = dags.run(_source("branching", into=into))
    assert sorted(first.states()) == ["part", "run"]
    with Client() as client:
        record = client.find(first.xcom("run", "dagengine_run_id"))
        recorded = outline_of_run(client.store, record)
    ran = dags.run(_source("branching", recorded=recorded, into=into))
    assert ran.states() == dict.fromkeys(["run", "part", "double"], "success")


def test_expanded_each_step_is_a_run_and_values_travel_between_them(dags: Dags, tmp_path: Path) -> None:
    """Small ones as XComs, a large one by reference; the parameter that Airflow is given reaches the step."""
    into = tmp_path / "lines"
    ran = dags.run(_source("whole", "expand", into=str(into)), {"size": 200_000})
    assert ran.states() == dict.fromkeys(["part_0", "part_1", "part_2", "measured_0.large", "length"], "success")
    assert ran.xcom("part_2") == {"number": 2}
    assert ran.xcom("measured_0.large")["__dagengine__"] == 1
    assert ran.xcom("length") == "{{ bytes }}: 600000"
    assert _lines(into) == 3
    runs = {ran.xcom(task, "dagengine_run_id") for task in ran.states()}
    assert len(runs) == STEPS


def test_a_schedule_and_a_store_of_its_own_are_parsed(dags: Dags, tmp_path: Path) -> None:
    """As Airflow has them; a DAG by the clock begins with today's run, not with those of all days before."""
    wanted = Wanted(Code(text(str(FLOWS))), "export_flows.py", "its_id", "runs_of_a_test", "0 2 * * *")
    for mode in ("mirror", "expand"):
        made = export(load(f"{FLOWS}:gated"), {"path": str(tmp_path)}, wanted, mode).text
        dag = dags.load(dags.write(made.replace('"its_id"', "DAG_ID")))
        assert (dag.catchup, dag.schedule) == (False, "0 2 * * *")
        assert {task.conn_id for task in dag.tasks} == {"runs_of_a_test"}


# ---- what is in the documentation ---------------------------------------------------------------


@pytest.fixture
def beside(dags: Dags) -> Any:
    """Puts files beside the DAGs for the time of the test."""
    put: list[Path] = []

    def write(name: str, content: str) -> None:
        file = dags.folder / name
        file.write_text(content)
        put.append(file)

    yield write
    for file in put:
        file.unlink()


def _blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def _run(dags: Dags, source: str) -> Ran:
    return dags.run(re.sub(r'with DAG\(\s*"\w+"', "with DAG(DAG_ID", source))


def test_the_dag_to_paste_runs_as_it_is(dags: Dags, beside: Any) -> None:
    """With the workflow beside it, as the page has both."""
    flow, dag = _blocks("airflow.md")[:2]
    beside("words.py", flow)
    ran = _run(dags, dag)
    assert ran.states() == {"count": "success", "report": "success"}
    assert ran.xcom("report") == "6 words"


def test_the_example_runs_on_debians_packages(dags: Dags, beside: Any) -> None:
    """Its workflow lies beside it; the data, which is not in the DAGs folder, is where the example has it."""
    folder = ROOT / "examples" / "airflow"
    packages = folder.parent / "debian" / "debian-bookworm-main.tsv.gz"
    flow = (folder / "largest_sections.py").read_text()
    place = re.compile(r"^PACKAGES = .*$", re.MULTILINE)
    assert place.search(flow)
    beside("largest_sections.py", place.sub(f"PACKAGES = {str(packages)!r}", flow))
    ran = _run(dags, (folder / "debian_dag.py").read_text())
    assert ran.states() == {"measure": "success", "measured": "success", "report": "success"}
    assert ran.xcom("report") == "doc (48.4 GB), devel (42.9 GB), debug (32.2 GB)"


def test_the_example_exported_is_parsed(dags: Dags, tmp_path: Path) -> None:
    """As the command line writes it, beside the workflow, from where Airflow's workers find it."""
    from dagengine.cli import main

    shutil.copy(ROOT / "examples" / "airflow" / "largest_sections.py", dags.folder / "largest_sections.py")
    file = dags.folder / "largest_mirror.py"
    try:
        assert main(["airflow", "export", f"{dags.folder}/largest_sections.py:largest_sections", "-o", str(file)]) == 0
        source = file.read_text()
        assert 'CODE = "largest_sections.py"' in source
        loaded = dags.load(dags.write(source.replace('"largest_sections",\n', "DAG_ID,\n")))
        assert sorted(loaded.task_ids) == ["largest", "measure_map", "run", "sections"]
        assert loaded.get_task("largest").upstream_task_ids == {"measure_map"}
    finally:
        (dags.folder / "largest_sections.py").unlink()
        file.unlink(missing_ok=True)
