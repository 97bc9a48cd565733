"""Stores that the code of each schema revision has left in the middle of a run: upgraded, then resumed, they end rightly.

`stores/REVISION.sql` is what `iterdump` says of such a store after `old_flow` was killed in it; its one artifact lies beside.
"""

from __future__ import annotations

import platform
import shutil
import sqlite3
from pathlib import Path

import pytest

from dagengine.engine import Engine
from dagengine.errors import StoreOutdated
from dagengine.model import StepState
from dagengine.runtime import InlineRuntime
from dagengine.storage import open_store, revisions, upgrade
from dagengine.storage.interface import RunFilter
from tests.migrations.old_flow import RESULT

_ALL = RunFilter()
STORES = Path(__file__).parent / "stores"


@pytest.fixture(params=revisions.REVISIONS[:-1])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with an old store and its artifacts, as if its process had died on this machine before it was booted."""
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.executescript((STORES / f"{request.param}.sql").read_text())
    connection.execute(f"PRAGMA application_id={revisions.APPLICATION_ID}")
    connection.execute("UPDATE process SET host = ?", [platform.node()])
    connection.commit()
    connection.close()
    shutil.copytree(STORES / "artifacts", tmp_path / "artifacts")
    return tmp_path


def test_there_is_a_store_of_each_revision() -> None:
    """Whoever adds a revision keeps a store of the one before it."""
    assert tuple(sorted(file.stem for file in STORES.glob("*.sql"))) == revisions.REVISIONS[:-1]


def test_an_old_store_is_upgraded_and_its_run_goes_on(place: Path) -> None:
    """What was recorded by then stays as it was, by the same attempts; the rest is done, and the result is right."""
    url = str(place / "store.db")
    with pytest.raises(StoreOutdated, match="dagengine db upgrade"):
        open_store(url)
    upgrade(url)
    with Engine(url, runtime=InlineRuntime()) as engine:
        [run] = engine.store.runs(_ALL)
        before = {step.key: step for step in engine.store.steps(run.number) if step.state is StepState.SUCCEEDED}
        assert len(before) == 9
        assert engine.resume(run.id).result() == RESULT
        after = {step.key: step for step in engine.store.steps(run.number)}
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {"old/total[0]"}
