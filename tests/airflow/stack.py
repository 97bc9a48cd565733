"""A whole Airflow of real processes: API server, DAG processor, scheduler with LocalExecutor, triggerer.

    stack = Stack(home, server); stack.start()
    dag_id = stack.deploy('''… DAG_ID …''')
    run = stack.trigger(dag_id)
    stack.await_task(run, "count", "running"); stack.kill_task(run, "count")
    assert stack.await_end(run) == "success"

It is spoken to over its REST API alone, as its UI does. Each process leads a group of its own; at the end whatever carries
this home in its environment is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.airflow.world import settings
from tests.postgres.server import Server

T = TypeVar("T")

SECONDS = 600.0
"""For anything to come about on a busy machine; most things take a second or two."""

SOON = "poke_interval=1, retries=100, retry_delay=1"
"""Arguments of a sensor that is rescheduled without delay: Airflow fails the tries whose end it notices too late."""

BETWEEN_LOOKS = 0.1

UI_URL = "http://dashboard.example/runs/{run_id}"
"""Where the stack says that pages of runs are. Nothing is there."""

PATIENT = """
    import signal

    from airflow.sdk.execution_time.supervisor import WatchedSubprocess

    WatchedSubprocess.kill.__defaults__ = (signal.SIGINT, 300.0, False)
"""
"""A plugin, for all of Airflow's processes. Without it they kill a task that has not ended five seconds after it was asked to,
and a busy machine may need them to record that its run is cancelled."""

PROCESSES = ("api-server", "dag-processor", "scheduler", "triggerer")

_ids = itertools.count()


class DagRun(NamedTuple):
    dag_id: str
    run_id: str


class Stack:
    def __init__(self, home: Path, server: Server, **variables: str) -> None:
        """Airflow's database is one of this server's, through the driver that our own store has: psycopg, for both of its kinds."""
        self.home = home
        self._server = server
        self._database = f"airflow_{uuid.uuid4().hex}"
        database = server.url(database=self._database).replace("postgresql://", "postgresql+psycopg://")
        self._ports = [_held_port() for _ in range(3)]
        self.port, worker_logs, trigger_logs = (held.getsockname()[1] for held in self._ports)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **settings(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database,
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
            # Only a triggerer dies here without a word. A scheduler that were given a few seconds would take itself, or a task
            # whose process is as slow, for dead on a busy machine.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "600",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DAGENGINE__UI_URL": UI_URL,
            "AIRFLOW_CONN_DAGENGINE_DEFAULT": json.dumps({"conn_type": "dagengine", "host": str(home / "runs.db")}),
            **variables,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""

    @property
    def store(self) -> str:
        """The path of the store that the connection dagengine_default names."""
        return str(self.home / "runs.db")

    # ---- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._server.run(f"CREATE DATABASE {self._database}")
        for folder in ("dags", "plugins", "dagengine", "said"):
            (self.home / folder).mkdir(mode=0o700, exist_ok=True)
        self.module("patient", PATIENT)
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for name in PROCESSES:
            self.start_process(name)
        self.await_healthy()

    def start_process(self, name: str) -> None:
        with (self.home / "said" / name).open("ab") as said:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", name],
                env=self.environment, stdout=said, stderr=said, start_new_session=True, cwd=self.home,
            )  # fmt: skip

    def kill_process(self, name: str) -> None:
        """SIGKILL to the process, and to its group."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart_triggerer(self) -> None:
        """As an outage: killed in the middle of whatever it did, then another one."""
        self.kill_process("triggerer")
        self.start_process("triggerer")

    def await_healthy(self) -> None:
        def healthy() -> bool:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended: {self.said(name)[-3000:]}"
            try:
                found = self._ask("GET", "api/v2/monitor/health")
            except (OSError, ValueError):
                return False
            parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
            return all((found.get(part) or {}).get("status") == "healthy" for part in parts)

        wait_until(healthy, "Airflow is healthy")
        self._token = self._ask("GET", "auth/token")["access_token"]

    def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        kill_all_with(f"AIRFLOW_HOME={self.home}")
        for process in self._processes.values():
            process.wait()
        self._server.run(f"DROP DATABASE IF EXISTS {self._database} WITH (FORCE)")
        for held in self._ports:
            held.close()

    def said(self, name: str) -> str:
        """What the process has printed so far."""
        return (self.home / "said" / name).read_text(errors="replace")

    @contextlib.contextmanager
    def serving(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """`dagengine serve` on the default connection's store."""
        command = [sys.executable, "-m", "dagengine", "serve", "--store", self.store, "--workers", "1", *words]
        with (self.home / "said" / "serve").open("ab") as said:
            process = subprocess.Popen(
                command, env=self.environment, stdout=said, stderr=said, start_new_session=True, cwd=self.home
            )
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()

    # ---- DAGs ---------------------------------------------------------------------------------

    def module(self, name: str, source: str) -> None:
        """A module that every process of Airflow can import, and its file `home/plugins/NAME.py`."""
        (self.home / "plugins" / f"{name}.py").write_text(textwrap.dedent(source))

    def deploy(self, source: str) -> str:
        """Write a DAG file, whose text says its id as DAG_ID, and wait until Airflow has it. Returns the id."""
        dag_id = f"dag_{next(_ids)}"
        whole = self.home / f"{dag_id}.py"  # what is in the folder may be read at any moment
        whole.write_text(textwrap.dedent(source).replace("DAG_ID", repr(dag_id)))
        whole.rename(self.home / "dags" / whole.name)

        def there() -> bool:
            errors = self.get("importErrors")["import_errors"]
            ours = [error["stack_trace"] for error in errors if error["filename"].endswith(f"{dag_id}.py")]
            assert not ours, ours[0]
            try:
                return not self.get(f"dags/{dag_id}")["is_paused"]
            except NotThere:
                return False

        wait_until(there, f"{dag_id} is parsed")
        return dag_id

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> DagRun:
        asked = {"logical_date": None, "conf": conf or {}, **({"dag_run_id": run_id} if run_id else {})}
        return DagRun(dag_id, self.post(f"dags/{dag_id}/dagRuns", asked)["dag_run_id"])

    def run_state(self, run: DagRun) -> str:
        return str(self.get(self._of(run))["state"])

    def await_end(self, run: DagRun, seconds: float = SECONDS) -> str:
        """The state in which the DAG run ended."""

        def ended() -> str | None:
            state = self.run_state(run)
            return state if state in ("success", "failed") else None

        return wait_until(ended, f"{run} ends", seconds, lambda: str(self.states(run)))

    # ---- task instances -------------------------------------------------------------------------

    def task(self, run: DagRun, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Airflow's task instance: state, try_number, max_tries, pid, …"""
        found: dict[str, Any] = self.get(self._of(run, task_id, map_index))
        return found

    def states(self, run: DagRun) -> dict[str, str]:
        """By task id, with [map index] where there is one."""
        found = self.get(f"{self._of(run)}/taskInstances?limit=100")["task_instances"]
        return {
            task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]": task["state"]
            for task in found
        }

    def await_task(self, run: DagRun, task_id: str, *states: str, map_index: int = -1) -> dict[str, Any]:
        """The task instance, once it is in one of these states."""

        def there() -> dict[str, Any] | None:
            with contextlib.suppress(NotThere):
                found = self.task(run, task_id, map_index)
                return found if found["state"] in states else None
            return None

        return wait_until(there, f"{task_id} of {run} is {' or '.join(states)}", SECONDS, lambda: str(self.states(run)))

    def log(self, run: DagRun, task_id: str, attempt: int = 1, map_index: int = -1) -> str:
        """What the task instance has logged in this try, one event a line."""
        path = f"{self._of(run, task_id)}/logs/{attempt}?full_content=true&map_index={map_index}"
        lines = []
        for part in self.get(path)["content"]:
            if isinstance(part, str):
                lines.append(part)
                continue
            more = {
                name: value for name, value in part.items() if name not in ("event", "timestamp", "logger", "level")
            }
            lines.append(
                f"[{part.get('level', '')}] {part.get('event', '')} {json.dumps(more) if more else ''}".rstrip()
            )
        return "\n".join(lines)

    def xcom(self, run: DagRun, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """The value; None if there is none."""
        path = f"{self._of(run, task_id)}/xcomEntries/{key}?deserialize=false&stringify=false&map_index={map_index}"
        with contextlib.suppress(NotThere):
            return self.get(path)["value"]
        return None

    def await_xcom(self, run: DagRun, task_id: str, key: str, map_index: int = -1) -> Any:
        """The value, once there is one."""
        return wait_until(lambda: self.xcom(run, task_id, key, map_index), f"{task_id} of {run} has pushed {key}")

    def links(self, run: DagRun, task_id: str, map_index: int = -1) -> dict[str, str | None]:
        """The extra links of the task instance, as the UI asks for them."""
        found: dict[str, str | None] = self.get(f"{self._of(run, task_id)}/links?map_index={map_index}")["extra_links"]
        return found

    def mark(self, run: DagRun, task_id: str, state: str, map_index: int = -1) -> None:
        """As a person does in the UI: "failed", "success", "skipped"."""
        self._ask("PATCH", f"api/v2/{self._of(run, task_id, map_index)}", {"new_state": state})

    def clear(self, run: DagRun, *task_ids: str) -> None:
        """As a person does in the UI: the tasks run again, and what comes after them."""
        asked = {"dry_run": False, "dag_run_id": run.run_id, "task_ids": list(task_ids), "only_failed": False,
                 "reset_dag_runs": True, "include_downstream": True}  # fmt: skip
        self.post(f"dags/{run.dag_id}/clearTaskInstances", asked)

    def kill_task(self, run: DagRun, task_id: str, map_index: int = -1) -> int:
        """SIGKILL to the process in which the task runs; returns its pid. The task has to be running."""

        def pid() -> int | None:
            found: int | None = self.task(run, task_id, map_index)["pid"]
            return found

        found = wait_until(pid, f"{task_id} has a process")
        os.kill(found, signal.SIGKILL)
        return found

    # ---- REST -----------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self._ask("GET", f"api/v2/{path}")

    def get_ui(self, path: str) -> Any:
        """Of the part of the API that only Airflow's own pages ask."""
        return self._ask("GET", f"ui/{path}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", f"api/v2/{path}", body)

    @staticmethod
    def _of(run: DagRun, task_id: str | None = None, map_index: int = -1) -> str:
        path = f"dags/{run.dag_id}/dagRuns/{urllib.parse.quote(run.run_id, safe='')}"
        if task_id is None:
            return path
        return f"{path}/taskInstances/{task_id}" + (f"/{map_index}" if map_index >= 0 else "")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:2000]
            if error.code == 404:
                raise NotThere(f"{path}: {said}") from None
            raise AssertionError(f"{method} {path}: {error.code} {said}") from None


class NotThere(Exception):
    """404."""


def wait_until(
    look: Callable[[], T | None], what: str, seconds: float = SECONDS, says: Callable[[], str] = lambda: ""
) -> T:
    """What `look` returns, once that is true. Fails after `seconds`, with what `says` tells then."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}. {says()}"
        time.sleep(BETWEEN_LOOKS)


def _held_port() -> socket.socket:
    """Bound to a port that the system gives to nobody else while this lives. Who asks for it by its number, and may use
    addresses again, as servers do, can listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def kill_all_with(variable: str) -> None:
    """Kill every process whose environment has this NAME=VALUE: what our processes have started, too."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
