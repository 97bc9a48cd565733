"""Tags on the command line: given to runs, looked for, and what is kept by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dagengine.model import RunState
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun
from tests.cli.conftest import Cli
from tests.storage.kit import ME, new_run, recorded

FLOW = "from dagengine import workflow\n\n@workflow(tags={'team': 'data'})\ndef nothing() -> None: ...\n"


def test_a_submitted_run_is_listed_by_its_tags(cli: Cli, tmp_path: Path) -> None:
    """With a text, or with any; shown with all of them; a wrong one is one line, before anything is recorded."""
    (tmp_path / "tagged_flow.py").write_text(FLOW)
    submitted = cli("submit", "tagged_flow.py", "--tag", "env=prod", "--json").json["id"]
    for words in (["env=prod"], ["env"], ["env", "--tag", "team=data"]):
        [listed] = cli("ls", "--json", "--tag", *words).json
        assert (listed["id"], listed["tags"]) == (submitted, {"env": "prod", "team": "data"})
    assert cli("ls", "--tag", "env=test", "--json").json == []
    assert "no run fits" in cli("ls", "--tag", "env=test").err
    assert "env=prod, team=data" in cli("show", submitted).out
    wrong = cli("submit", "tagged_flow.py", "--tag", "env")
    assert (wrong.status, wrong.err) == (2, "error: tag 'env' has no value. Say env=VALUE.\n")
    assert len(cli("ls", "--json").json) == 1


def test_gc_keeps_what_the_file_says_and_touches_what_is_asked(cli: Cli, store: Store, home: Path) -> None:
    """Rules of config.toml by tag; options above the file; `--tag` and `--state` leave others alone."""
    for run_id, tags, state in (
        ("kept", {"env": "prod"}, RunState.SUCCEEDED),
        ("test", {"env": "test"}, RunState.SUCCEEDED),
        ("fail", {"env": "test"}, RunState.FAILED),
    ):
        claim = store.create_run(replace(new_run(run_id), facts={"tags": tags}), ME)
        assert claim is not None
        recorded(store, claim, FinishRun(state, 2e6))
    (home / "config.toml").write_text('[retention]\n[[retention.rules]]\ntags = ["env=prod"]\nrecords = "never"\n')

    def would_go(*words: str) -> set[str]:
        return set(cli("gc", "--dry-run", "--json", *words).json["runs"])

    assert would_go() == {"test", "fail"}
    assert would_go("--state", "failed") == would_go("--state", "failed", "--tag", "env") == {"fail"}
    assert would_go("--tag", "env=prod") == set()
    assert would_go("--records", "never") == would_go("--records", "99w", "--tag", "colour") == set()
    (home / "config.toml").write_text('[retention]\nrecords = "soon"\n')
    wrong = cli("gc")
    assert wrong.status == 2
    assert wrong.err.startswith("error: retention.records is 'soon'")
    assert wrong.err.count("\n") == 1
