"""A home with a store, a file of workflows, and tries of an Airflow task on them, without Airflow."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from dagengine.airflow_plugin.attending import Attendant, Work
from dagengine.airflow_plugin.here import Here
from dagengine.airflow_plugin.identity import TaskKey
from dagengine.airflow_plugin.outcomes import Outcome
from dagengine.airflow_plugin.served import Served
from dagengine.client import Client
from dagengine.model import RunRecord, RunState

SECONDS = 300.0
"""For anything to come about on a busy machine; most things take less than one."""

FOLDER = "DAGENGINE_TEST_FOLDER"

FLOWS = '''
import os, subprocess, sys
from pathlib import Path
from dagengine import continue_with, task, workflow

FOLDER = Path({folder!r})

def mark(word):
    descriptor = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{{word}}\\n".encode())
    os.close(descriptor)

@task
def first(x):
    mark(f"first-{{x}}")
    print("first printed this")
    return 2 * x

@task
def second(x):
    mark(f"second-{{x}}")
    print("second printed this")
    if not (FOLDER / "ok").exists():
        raise ValueError("not yet")
    return x + 1

@task
def hold(x):
    """Say that it runs, with a process of its own that would outlive it, and wait until somebody lets go."""
    mark(f"hold-{{x}}")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(FOLDER / "started", "w") as started:
        started.write(f"{{os.getpid()}} {{child.pid}}\\n")
    with open(FOLDER / "go") as go:
        go.read()
    child.kill()
    child.wait()
    return x + 1

@task
def undo_first(result, x):
    mark(f"undo-{{x}}")

@workflow
def adds(x: int):
    return second(first(x))

@workflow
def holds(x: int):
    return hold(first(x))

@workflow
def goes_on(x: int):
    if x < 5:
        continue_with(x + 1)
    return hold(x)

@workflow
def undoable(x: int):
    return hold(first.options(undo=undo_first)(x))

@workflow
def returns(what: str):
    return {{"tuple": (1, 2), "large": "x" * 2_000_000, "none": None}}[what]
'''

_names = itertools.count()
T = TypeVar("T")


class Site:
    """One task of Airflow: `key`. `said`: what its tries have logged."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder = folder
        for pipe in ("started", "go"):
            os.mkfifo(folder / pipe)
        self.store = store or str(folder / "home" / "store.db")
        self.module = f"attended_{os.getpid()}_{next(_names)}"
        self.file = folder / f"{self.module}.py"
        self.file.write_text(FLOWS.format(folder=str(folder)))
        self.key = TaskKey("etl", "manual__1", "load", -1, 2)
        self.said: list[str] = []
        self.attendants: list[Attendant] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def work(self, workflow: str, try_number: int = 1, key: TaskKey | None = None, **said: Any) -> Work:
        given = {"args": (), "kwargs": {"x": 3}, "machine": {"workers": 1}, "store": self.store, **said}
        return Work(key or self.key, try_number, f"{self.file}:{workflow}", **given)

    def start(self, work: Work) -> Attendant:
        kind = Here if work.where == "here" else Served
        attendant = kind(work, lambda level, text: self.said.append(text))
        self.attendants.append(attendant)
        attendant.start()
        return attendant

    def end(self, attendant: Attendant) -> Outcome:
        assert attendant.wait(SECONDS), f"not over; it said {self.said}"
        return attendant.outcome()

    def attend(self, workflow: str, try_number: int = 1, key: TaskKey | None = None, **said: Any) -> Outcome:
        """A whole try."""
        return self.end(self.start(self.work(workflow, try_number, key, **said)))

    def process(self, *words: str) -> subprocess.Popen[bytes]:
        """`python …` in a process group of its own."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            FOLDER: str(self.folder),
        }
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=said, stderr=said, start_new_session=True
            )
        self._processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        return self.process("-m", "dagengine", "serve", "--store", self.store, "--workers", "1")

    def await_started(self) -> list[int]:
        """Until `hold` runs; the pids of its worker and of that one's child. Fails with what was said if it does not."""
        pipe = os.open(self.folder / "started", os.O_RDONLY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            assert poll.poll(SECONDS * 1000), f"hold has not begun; {self.said} {self._output()}"
            return [int(pid) for pid in os.read(pipe, 4096).split()]
        finally:
            os.close(pipe)

    def let_go(self) -> None:
        (self.folder / "go").write_text("go\n")

    def _output(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "said").read_text()
        return ""

    def ledger(self) -> Counter[str]:
        with contextlib.suppress(FileNotFoundError):
            return Counter((self.folder / "ledger").read_text().split())
        return Counter()

    def record(self, key: TaskKey | None = None) -> RunRecord:
        with Client(self.store) as client:
            return client.find((key or self.key).engine_id)

    def state(self, key: TaskKey | None = None) -> RunState:
        with Client(self.store) as client:
            return client.state((key or self.key).engine_id)

    def close(self) -> None:
        for attendant in self.attendants:
            attendant.stop("cancel")
        for attendant in self.attendants:
            attendant.wait(SECONDS)
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        needle = f"{FOLDER}={self.folder}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if needle in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)
        for thread in threading.enumerate():  # the last thing that one does is to say that it is over
            if thread.name == "dagengine-airflow":
                thread.join(SECONDS)
                assert not thread.is_alive()
