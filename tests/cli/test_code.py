"""The verbs about code: what a run was started with, what today's means for it, and going on with either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.semantics.projects import ProjectFolder, project_folder

FLOW = """
from dagengine import get, task, workflow
from parts import helper

@task
def first(x):
    return helper.label(x)

@task
def second(x):
    raise ValueError("not yet")

@workflow
def coded(x):
    return get(second(get(first(x))))
"""
HELPER = "def label(x):\n    return f'{x} by 1'\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[ProjectFolder]:
    with project_folder(tmp_path / "project") as found:
        found.write({"coded_flow": FLOW, "parts/__init__": "", "parts/helper": HELPER})
        yield found


@pytest.fixture
def run(cli: Cli, project: ProjectFolder) -> str:
    """A run that has failed in its second step; its code is not loaded any more."""
    done = cli("run", f"{project.folder}/coded_flow.py:coded", "x=one", "--json", "--workers", "1")
    assert done.status == 1
    project.forget()
    return str(done.json["id"])


def test_the_code_of_a_run_is_listed_shown_compared_and_taken_out(
    cli: Cli, project: ProjectFolder, run: str, tmp_path: Path
) -> None:
    """By the run, or by the beginning of the code's digest."""
    (listed,) = cli("code", "ls", "--json").json
    digest = listed["digest"]
    assert listed["modules"] == 3
    assert digest[:12] in cli("code", "ls").out
    assert "parts.helper" in cli("code", "show", run[:8]).out
    assert cli("code", "show", "@last", "parts/helper.py").status == 0
    assert cli("code", "diff", digest[:8]).out == ""
    project.change("parts/helper", "by 1", "by 2")
    assert "+    return f'{x} by 2'" in cli("code", "diff", run).out
    assert cli("code", "diff", run, "--json").json["changed"] == ["parts.helper"]
    assert cli("code", "export", run, str(tmp_path / "out")).out == f"3 files of code {digest[:12]} in {tmp_path}/out\n"
    assert cli("code", "export", run, str(tmp_path / "out")).status == 2
    assert cli("code", "show", "nothing").status == 3


def test_runs_are_checked_against_todays_code(cli: Cli, project: ProjectFolder, run: str) -> None:
    """Exit status 1 if one of them would not go on."""
    project.change("parts/helper", "by 1", "by 2")
    done = cli("replay", run)
    assert done.status == 0
    assert "would go on" in done.out
    assert "changed and kept: coded/first[0]; differs: parts.helper:label" in done.out
    assert cli("replay", "--name", "coded", "--check").out == "1 run: 1 would go on, 0 would not\n"
    project.forget()
    project.change("coded_flow", "first(x)", "first(x, 2)")
    project.change("coded_flow", "def first(x, 2)", "def first(x, y)")
    done = cli("replay", "--since", "1d", "--check")
    assert done.status == 1
    assert "coded/first[0] is called otherwise" in done.out
    assert "+ first('one', 2)" in done.out
    assert cli("replay").status == 2
    project.forget()
    assert cli("replay", run, "--code", "pinned").status == 0


def test_a_run_goes_on_with_todays_code_when_that_is_asked_for(cli: Cli, project: ProjectFolder, run: str) -> None:
    """What is finished stays; a new run of what has changed is another thing to ask for."""
    project.change("coded_flow", 'raise ValueError("not yet")', "return x")
    assert cli("resume", run, "--workers", "1", "-q").status == 1
    project.forget()
    project.change("parts/helper", "by 1", "by 2")
    assert cli("resume", run, "--rerun-changed").status == 2
    done = cli("resume", run, "--code", "current", "--json", "--workers", "1")
    assert done.json["result"] == "one by 1"
    assert "today's code: 2 steps: 1 changed and kept, 1 changed and to run" in done.err
    project.forget()
    done = cli("resume", run, "--code", "current", "--rerun-changed", "--json", "--workers", "1")
    assert done.json["result"] == "one by 2"
    assert done.json["id"] != run
    assert len(cli("code", "ls", "--json").json) == 2


def test_a_result_is_read_with_classes_that_are_left_in_the_runs_code_only(cli: Cli, project: ProjectFolder) -> None:
    """The modules are edited, then gone; of the run, and of one of its steps."""
    project.write(
        {
            "found_flow": "from dagengine import get, task, workflow\nfrom parts.found import Found\n"
            "@task\ndef look(x):\n    return Found(x)\n"
            "@workflow\ndef finding(x):\n    return get(look(x))\n",
            "parts/found": "class Found:\n    def __init__(self, x):\n        self.x = x\n"
            "    def __repr__(self):\n        return f'found {self.x}'\n",
        }
    )
    assert cli("run", f"{project.folder}/found_flow.py:finding", "x=one", "-q", "--workers", "1").status == 0
    for name in ("parts/found", "found_flow"):
        project.forget()
        project.write({name: "raise ValueError('not this one')\n"})
        assert cli("result", "@last").out == "found one\n"
    project.forget()
    project.folder.rename(project.folder.with_name("elsewhere"))
    assert cli("result", "@last", "look[0]").out == "found one\n"


def test_a_resume_says_that_files_have_changed_which_it_does_not_take(
    cli: Cli, project: ProjectFolder, run: str
) -> None:
    """Who has corrected a typo learns it before the run fails again; files that are gone, or as they were, are no news."""
    assert "changed since" not in cli("resume", run).err
    project.forget()
    project.change("parts/helper", "by 1", "by 2")
    done = cli("resume", run)
    said = "note: parts/helper.py changed since the run was started, and it goes on with its own code."
    assert done.status == 1
    assert f"{said} For today's: --code current" in done.err
    project.forget()
    (project.folder / "parts" / "helper.py").unlink()
    assert "changed since" not in cli("resume", run).err
