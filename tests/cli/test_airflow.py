"""`dagengine airflow export` as it is typed; what is in the files is tested in tests/test_airflow_export.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FLOW = """
from dagengine import task, workflow

print("loaded")


@task
def part(number: int) -> int:
    return number


@task
def total(parts: list[int]) -> int:
    return sum(parts)


@task
def needs(file: str) -> bool:
    open(file).close()
    return True


@workflow
def summed(count: int, start: int = 0) -> int:
    return total([part(start), *part.map(range(count))])


@workflow
def other() -> int:
    return part(1)
"""


@pytest.fixture(scope="module")
def flow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests: its module is loaded once."""
    file = tmp_path_factory.mktemp("exported") / "exported_by_cli_flow.py"
    file.write_text(FLOW)
    return file


def test_the_dag_is_printed_and_nothing_is_recorded(cli: Cli, flow_file: Path, home: Path) -> None:
    """Alone on stdout, so that it can be piped; what the workflow's module prints goes to stderr."""
    done = cli("airflow", "export", f"{flow_file}:summed", "count=2")
    assert done.status == 0
    assert done.out.startswith('"""summed: dagengine runs it in the task run')
    assert f'CODE = "{flow_file}"' in done.out
    assert not home.exists()
    assert "airflow.sdk" not in sys.modules


def test_the_file_is_written_beside_the_workflow_and_again(cli: Cli, flow_file: Path) -> None:
    """It finds the workflow from where it is itself. A file of somebody else's is left alone."""
    file = flow_file.with_name("dag.py")
    words = ("airflow", "export", f"{flow_file}:summed", "count=2", "--mode", "expand", "-o", str(file))
    assert cli(*words).out == f"DAG summed written to {file}: 4 tasks\n"
    assert 'CODE = "exported_by_cli_flow.py"' in file.read_text()
    assert cli(*words, "--json").json == {
        "dag_id": "summed",
        "mode": "expand",
        "tasks": 4,
        "notes": ["count is the same in all runs of the DAG: the steps depend on it, or no parameter can be it."],
        "file": str(file),
    }
    file.write_text("somebody's own")
    refused = cli(*words)
    assert refused.status == 2
    assert "was not written by dagengine airflow export" in refused.err
    assert file.read_text() == "somebody's own"
    assert cli(*words, "--force").status == 0
    assert [left.name for left in file.parent.iterdir() if left.name.startswith(".")] == []


def test_the_steps_of_a_run_are_followed_where_the_body_does_not_tell(cli: Cli, flow_file: Path) -> None:
    """The run has to be one of that workflow."""
    assert cli("run", f"{flow_file}:summed", "count=3").status == 0
    made = cli("airflow", "export", f"{flow_file}:summed", "--run", "@last", "--json").json
    assert made["tasks"] == 6
    assert 'params={"count": Param(type="integer"), "start": 0}' in made["text"]
    refused = cli("airflow", "export", f"{flow_file}:other", "--run", "@last")
    assert "is one of summed, not of other" in refused.err
    assert cli("airflow", "export", f"{flow_file}:summed", "--run", "nosuch").status == 3


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["summed"], "depends on count. Say which value it is to have: count=…", 2),
        (["summed", "cuont=2"], "Did you mean count?", 2),
        (["summed", "count=2", "--mode", "mirrored"], "is not one of 'mirror', 'expand'", 2),
        (["summed", "count=2", "--dag-id", "a b"], "is no id for a DAG", 2),
        (["summed", "count=2", "-o", "nosuch/dag.py"], "there is no folder nosuch", 2),
        (["nosuch"], "has no workflow nosuch", 2),
    ],
)
def test_what_can_not_be_exported_gets_one_line(
    cli: Cli, flow_file: Path, words: list[str], message: str, status: int
) -> None:
    """With what to type instead."""
    refused = cli("airflow", "export", f"{flow_file}:{words[0]}", *words[1:])
    assert message in refused.err
    assert refused.err.count("\n") == 1
    assert refused.status == status


def test_a_task_can_be_run_by_its_name_and_resumed(cli: Cli, flow_file: Path, tmp_path: Path) -> None:
    """As a run of that one call, which is what each task of an expanded DAG is."""
    done = cli("run", f"{flow_file}:needs", f"file={tmp_path}/there")
    assert done.status == 1
    assert cli("steps", "@last", "--json").json[0]["key"] == "needs/needs[0]"
    (tmp_path / "there").touch()
    assert cli("resume", "@last").status == 0
    assert cli("result", "@last").out == "True\n"
