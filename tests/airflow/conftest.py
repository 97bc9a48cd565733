"""Real Airflow, in two tiers: `dags` runs DAGs in this process, `stack` has a scheduler, a triggerer and their like.

These tests need the environment that `make test` makes in .venv-airflow; without Airflow pytest passes the folder by. Every
worker of pytest-xdist has an Airflow home of its own, with its database. Tests of the stack are in files named test_stack_….py,
which one worker is given all of: so there is one stack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.stack import Stack
from tests.airflow.world import PROCESS_SECONDS, Dags, settings
from tests.postgres.server import shared

HOME = Path(tempfile.mkdtemp(prefix="airflow-"))

TEST_SECONDS = 1_800
"""For one test on a busy machine. Most take five, and the first of the stack's half a minute, to start it."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module imports Airflow. What Airflow itself warns of is not ours; what our modules do is an error."""
    for folder in ("dags", "plugins", "dagengine"):
        (HOME / folder).mkdir(mode=0o700)
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "_AIRFLOW"))]:
        del os.environ[name]
    os.environ.update(settings(HOME))
    config.addinivalue_line("filterwarnings", "ignore")
    config.addinivalue_line("filterwarnings", "error:::dagengine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadgroup`, which knows no groups with pytest 9."""
    from xdist.scheduler import LoadScopeScheduling

    class OneStack(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "stack" if "test_stack_" in nodeid else nodeid

    return OneStack(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """The home of an Airflow whose database is migrated."""
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return HOME


@pytest.fixture
def dags(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dags]:
    """DAG files of one test, and runs of them in this process, where no scheduler has to be waited for."""
    monkeypatch.setattr("dagengine.airflow_plugin.triggers.SETTLING", 0.0)
    made = Dags(airflow_home)
    yield made
    made.clear()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of Airflow's processes, once for all tests of the group, on a database of PostgreSQL."""
    made = Stack(tmp_path_factory.mktemp("stack"), shared())
    try:
        made.start()
        yield made
    finally:
        made.stop()
