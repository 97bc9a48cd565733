"""A store with servers, which are real processes, and are gone after the test with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import config
from dagengine.ending import wait_for_end
from dagengine.model import RunRecord
from dagengine.serving.submission import Submission, submit
from dagengine.storage import open_artifacts, open_store
from dagengine.workflows import load
from tests.postgres.server import fresh_schema, shared

FLOWS = Path(__file__).with_name("served_flows.py")
FOLDER = "DAGENGINE_TEST_FOLDER"
SECONDS = 300.0
"""For anything to come about on a busy machine; most things take less than one."""


class Site:
    """A home with a store, and what is done there. `store_url`: of one that is not in the home."""

    def __init__(self, folder: Path, store_url: str | None = None) -> None:
        self.folder = folder
        for pipe in ("started", "go"):
            os.mkfifo(folder / pipe)
        config.create_private(folder / "home")
        self.settings = config.load(home=folder / "home", store=store_url, workers=1)
        self.store = open_store(self.settings.store.value)
        self.artifacts = open_artifacts(self.settings.artifacts.value, cache=str(self.settings.folder / "cache"))
        self._processes: list[subprocess.Popen[bytes]] = []

    def serve(self, *words: str) -> subprocess.Popen[bytes]:
        return self._start("serve", "--workers", "1", *words)

    def run(self, workflow: str, *words: str) -> subprocess.Popen[bytes]:
        """`dagengine run`, in a process of its own."""
        return self._start("run", f"{FLOWS}:{workflow}", *words, "--workers", "1", "-q")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DAGENGINE_HOME": str(self.settings.home.value),
            "DAGENGINE_STORE": self.settings.store.value,
            FOLDER: str(self.folder),
        }
        with (self.folder / "said").open("ab") as said:  # a pipe would be held open by hosts that outlive their server
            process = subprocess.Popen(
                [sys.executable, "-m", "dagengine", *words], env=environment, stderr=said, start_new_session=True
            )
        self._processes.append(process)
        return process

    def submit(self, workflow: str, *args: Any, **how: Any) -> str:
        found = load(f"{FLOWS}:{workflow}")
        return submit(self.store, self.artifacts, self.settings.control, (found, args, {}), Submission(**how))[0]

    def ended(self, run_id: str) -> RunRecord:
        return wait_for_end(self.store, self.settings, run_id, SECONDS)

    def await_started(self) -> int:
        """Until a step of `held` runs; returns the pid of its host."""
        return int((self.folder / "started").read_text())

    def let_go(self) -> None:
        (self.folder / "go").write_text("go\n")

    def ledger(self) -> Counter[str]:
        try:
            return Counter((self.folder / "ledger").read_text().split())
        except FileNotFoundError:
            return Counter()

    def await_said(self, words: str) -> None:
        """Until a server or host has said this. What they say is no event to wait for: it is looked at again and again."""
        until = time.monotonic() + SECONDS
        while words not in (self.folder / "said").read_text():
            assert time.monotonic() < until, (self.folder / "said").read_text()
            time.sleep(0.02)

    def stop(self, process: subprocess.Popen[bytes]) -> str:
        """Ask the server to stop, wait for it, and return what all of them said."""
        process.send_signal(signal.SIGTERM)
        status = process.wait(SECONDS)
        said = (self.folder / "said").read_text()
        assert status == 0, said
        return said

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        needle = f"{FOLDER}={self.folder}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if needle in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)
        self.store.close()
        self.artifacts.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgres"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    url = shared().url(fresh_schema(), lease="300") if request.param == "postgres" else None
    made = Site(tmp_path, url)
    yield made
    made.close()
