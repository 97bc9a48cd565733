"""`recompute`: bytes that are gone or damaged, named and made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter
from tests.cli.conftest import Cli

FLOW = Path(__file__).parent / "flows" / "bytes_again.py"


@pytest.fixture
def artifacts(cli: Cli, home: Path) -> dict[str, Path]:
    """The files of a finished run's values, by the names of their tasks."""
    assert cli("run", f"{FLOW}:values", "--workers", "1").status == 0
    store = open_store(str(home / "store.db"))
    [run] = store.runs(RunFilter())
    steps = store.steps(run.number)
    store.close()
    found = {step.task: step.value_digest or "" for step in steps}
    return {name: home / "artifacts" / digest[:2] / digest[2:] for name, digest in found.items() if name != "size"}


def test_nothing_is_done_where_nothing_is_missing(cli: Cli, artifacts: dict[str, Path]) -> None:
    """It says so, and leaves the files as they are."""
    before = {path: path.stat().st_mtime_ns for path in artifacts.values()}
    done = cli("recompute", "@last")
    assert (done.status, done.out.startswith("all large values")) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in artifacts.values()} == before


def test_missing_and_damaged_values_are_made_again(cli: Cli, artifacts: dict[str, Path]) -> None:
    """One from the other, byte by byte as they were; before, it says which and who needs them, and changes nothing."""
    before = {name: path.read_bytes() for name, path in artifacts.items()}
    artifacts["same"].unlink()
    artifacts["longer"].write_bytes(b"x" * len(before["longer"]))
    looked = cli("recompute", "@last", "--dry-run", "--json")
    assert looked.status == 1
    assert [(gap["step"], gap["what"], gap["readers"]) for gap in looked.json] == [
        ("values/same[0]", "missing", ["values/longer[0]"]),
        ("values/longer[0]", "damaged", ["values/size[0]"]),
    ]
    assert not artifacts["same"].exists()
    done = cli("recompute", "@last")
    assert done.status == 0, done.out
    assert done.out.count("made again") == 2
    assert {name: path.read_bytes() for name, path in artifacts.items()} == before


def test_another_value_is_not_taken_for_the_recorded_one(cli: Cli, artifacts: dict[str, Path]) -> None:
    """It says what to do instead; the steps that can be named may be chosen."""
    artifacts["random"].unlink()
    done = cli("recompute", "@last", "random[0]")
    assert done.status == 1
    assert "fork" in done.out
    assert not artifacts["random"].exists()
    assert cli("recompute", "@last", "same[0]").status == 0
    assert cli("recompute", "@last", "nosuch[0]").status == 3
