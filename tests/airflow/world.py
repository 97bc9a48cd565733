"""An Airflow of the tests' own, in this process: its home, its settings, and `dag.test()`.

What is in `settings` has to be in the environment before Airflow is imported, so `conftest.py` sets it when pytest starts.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

PROCESS_SECONDS = 600.0
"""For one command of Airflow's on a busy machine; most take five."""

PATIENCE = {
    "AIRFLOW__API__LOG_FETCH_TIMEOUT_SEC": "300",
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
    "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "600",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
    "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "600",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "3600",
    "AIRFLOW__TRIGGERER__RUNNER_HEALTH_CHECK_THRESHOLD": "600",
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "300",
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "100",
}
"""What Airflow gives up after seconds that are plenty on a machine of its own: it is to give nothing up on a busy one."""

_ids = itertools.count()


def settings(home: Path) -> dict[str, str]:
    """Variables of an Airflow that keeps to the folder `home`, and to what we have in it."""
    return {
        **PATIENCE,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__API__SECRET_KEY": "of-the-tests-of-the-tests-of-the-tests",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-the-tests" * 6,
        "AIRFLOW__CORE__FERNET_KEY": "b2YtdGhlLXRlc3RzLW9mLXRoZS10ZXN0cy1vZi10aGU=",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DAGENGINE_HOME": str(home / "dagengine"),
        # New interpreters find the package of this checkout, whatever is installed; and the workflows of the tests.
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(home / "plugins")]),
    }


@dataclass
class Ran:
    """A DAG run that `dag.test()` has worked off. `output`: what Airflow and the tasks have logged and printed."""

    dag_run: Any
    output: str

    @property
    def state(self) -> str:
        return str(self.dag_run.state)

    def task(self, task_id: str, map_index: int = -1) -> Any:
        """Airflow's task instance."""
        found = self.dag_run.get_task_instance(task_id, map_index=map_index)
        assert found is not None, f"there is no {task_id}[{map_index}]"
        return found

    def states(self) -> dict[str, str]:
        """By task id, with [map index] where there is one."""
        return {
            task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]": str(task.state)
            for task in self.dag_run.get_task_instances()
        }

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """As a task downstream would be given it; None if there is none."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.deserialize_value(row) if (row := self._row(task_id, key, map_index)) is not None else None

    def _row(self, task_id: str, key: str, map_index: int) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            query = select(XComModel).where(
                XComModel.dag_id == self.dag_run.dag_id,
                XComModel.run_id == self.dag_run.run_id,
                XComModel.task_id == task_id,
                XComModel.key == key,
                XComModel.map_index == map_index,
            )
            return session.scalars(query).one_or_none()


class Dags:
    """The DAG files of one test; they are gone after it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "dags"
        self._files: list[Path] = []

    def write(self, source: str) -> str:
        """Write a DAG file, whose text says its id as DAG_ID; returns that id, which no other file has."""
        dag_id = f"dag_{os.getpid()}_{next(_ids)}"
        file = self.folder / f"{dag_id}.py"
        file.write_text(textwrap.dedent(source).replace("DAG_ID", repr(dag_id)))
        self._files.append(file)
        return dag_id

    def load(self, dag_id: str) -> Any:
        """The DAG as Airflow parses its file. Fails with the import error, if there is one."""
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=self.folder / f"{dag_id}.py", bundle_name="dags-folder")
        assert not bag.import_errors, "\n".join(bag.import_errors.values())
        return bag.dags[dag_id]

    def run(self, source: str, conf: dict[str, Any] | None = None) -> Ran:
        """Write the DAG file, and work one run of the DAG off in this process."""
        return self.test(self.load(self.write(source)), conf)

    def test(self, dag: Any, conf: dict[str, Any] | None = None) -> Ran:
        """Work one run of a loaded DAG off in this process."""
        with _output() as said:
            dag_run = dag.test(run_conf=conf)
        return Ran(dag_run, _plain(said.getvalue()))

    def clear(self) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _output() -> Iterator[io.StringIO]:
    said = io.StringIO()
    before = sys.stdout, sys.stderr
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said
    before[0].write(said.getvalue())  # pytest shows it of a test that fails


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
