"""Two machines, a PostgreSQL server and the links between them: one machine dies whole, or is cut off longer than its lease.

Each machine is namespaces of this one: a network of its own, a host's name, pids that mean nothing elsewhere. So nobody can
prove a death, and nobody is heard of but through the server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import config
from dagengine.ending import wait_for_end
from dagengine.model import RunRecord, RunState, StepState
from dagengine.serving.submission import Submission, submit
from dagengine.storage import open_artifacts, open_store
from dagengine.storage.interface import RunFilter
from dagengine.workflows import load
from tests.postgres.server import Server, fresh_schema

FLOWS = Path(__file__).parents[1] / "serving" / "served_flows.py"
FOLDER = "DAGENGINE_TEST_FOLDER"
SECONDS = 300.0
LEASE = "30"
"""Seconds, which a process has to be kept from its processor for before it loses a run that nobody took from it. A test does
not wait for their end (`Network.let_lease_end`), but at most a third of them for a renewal."""
MACHINE = ("unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
BOOT = 'hostname "$1" && ip link set lo up && echo up && read linked && shift && "$@"'
"""Says that it is up, waits until it is linked, and works."""


def _forbidden() -> str:
    """Why there can be no such machines here; "" if there can."""
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "ip") if shutil.which(tool) is None]
    if missing:
        return f"there is no {missing[0]} here"
    made = subprocess.run([*MACHINE, "ip", "link", "set", "lo", "up"], check=False, capture_output=True, text=True)
    return made.stderr.strip() if made.returncode else ""


pytestmark = pytest.mark.skipif(bool(_forbidden()), reason=f"namespaces can't be made: {_forbidden()}")


class Machine:
    """A machine with one program. Killing it kills all that runs on it."""

    def __init__(self, host: str, folder: Path, store: str, *words: str) -> None:
        self.folder = folder
        folder.mkdir()
        for pipe in ("started", "go"):
            os.mkfifo(folder / pipe)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DAGENGINE_HOME": str(folder / "home"),
            "DAGENGINE_STORE": store,
            FOLDER: str(folder),
        }
        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [*MACHINE, "sh", "-c", BOOT, "sh", host, sys.executable, "-m", "dagengine", *words, "--workers", "1"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"
        (first,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.inside = ("nsenter", f"--target={first}", "--net")

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()

    def await_started(self) -> None:
        """Until a step of `held` runs on it."""
        (self.folder / "started").read_text()

    def let_go(self) -> None:
        (self.folder / "go").write_text("go\n")

    def ledger(self) -> Counter[str]:
        return Counter((self.folder / "ledger").read_text().split())

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def ended(self) -> int:
        """Its program's status, when all that it started has ended, too: nobody else holds its output."""
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Network:
    """A server's machine, with a link to each of the others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machines: list[Machine] = []
        self._hub = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && read over"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._hub.stdout is not None
        assert self._hub.stdout.readline() == b"up\n"
        self._inside = ("nsenter", f"--target={self._hub.pid}", "--net")
        nobody = pwd.getpwnam("nobody")
        self.server = Server(listen_addresses="*")
        self.server.around = [*self._inside, "setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"]
        self.server.around += ["--clear-groups", "--"]
        with (self.server.data / "pg_hba.conf").open("a") as access:
            access.write("host all all 10.0.0.0/8 trust\n")
        self.server.start()
        self.schema = fresh_schema()
        self.settings = config.load(home=folder / "home", store=self.server.url(self.schema, lease=LEASE))
        config.create_private(folder / "home")
        self.store = open_store(self.settings.store.value)
        self.artifacts = open_artifacts(self.settings.artifacts.value)

    def machine(self, host: str, *words: str) -> Machine:
        """A machine of the name `host`, whose program begins."""
        number = len(self._machines) + 1
        url = f"postgresql://tester@10.77.{number}.1/postgres?schema={self.schema}&lease={LEASE}&tcp_user_timeout=2000"
        machine = Machine(host, self._folder / f"machine-{number}", url, *words)
        self._machines.append(machine)
        ours, theirs = (f"dg{os.getpid()}{side}{number}" for side in "ab")
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        for link, inside, last in ((ours, self._inside, 1), (theirs, machine.inside, 2)):
            _run("ip", "link", "set", link, "netns", inside[1].partition("=")[2])
            _run(*inside, "ip", "address", "add", f"10.77.{number}.{last}/24", "dev", link)
            _run(*inside, "ip", "link", "set", link, "up")
        machine.begin()
        return machine

    def link(self, machine: Machine, state: str) -> None:
        """Cut the machine off ("down"), or bring it back ("up")."""
        number = self._machines.index(machine) + 1
        _run(*self._inside, "ip", "link", "set", f"dg{os.getpid()}a{number}", state)

    def let_lease_end(self, run_id: str) -> None:
        """That of the run's owner, of which nobody hears any more."""
        owner = self.store.find_run(run_id).owner
        assert owner is not None
        self.server.run(f"UPDATE {self.schema}.process SET expires_at = 0 WHERE id = '{owner.id}'")

    def submit(self, workflow: str, *args: int) -> str:
        given: tuple[Any, ...] = (load(f"{FLOWS}:{workflow}"), args, {})
        return submit(self.store, self.artifacts, self.settings.control, given, Submission())[0]

    def ended(self, run_id: str) -> RunRecord:
        return wait_for_end(self.store, self.settings, run_id, SECONDS)

    def close(self) -> None:
        for machine in self._machines:
            machine.kill()
        self.artifacts.close()
        self.store.close()
        self.server.remove()
        self._hub.communicate(b"\n")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=SECONDS)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


def once(network: Network, run: RunRecord) -> None:
    """Every step is recorded with one end, whoever worked on it."""
    steps = network.store.steps(run.number)
    assert [(step.key, step.state) for step in steps] == [
        ("held/double[0]", StepState.SUCCEEDED),
        ("held/hold[0]", StepState.SUCCEEDED),
        ("held/double[1]", StepState.SUCCEEDED),
    ]
    ended = [attempt.seq for attempt in network.store.attempts(run.number) if attempt.outcome is not None]
    assert sorted(ended) == [step.seq for step in steps]


def test_the_runs_of_a_machine_that_dies_whole_go_on_with_the_server_of_another_one(network: Network) -> None:
    """Its server, host and workers are gone at once: nobody is left to say anything."""
    first = network.machine("first", "serve")
    run_id = network.submit("held", 4)
    first.await_started()
    second = network.machine("second", "serve")
    first.kill()
    network.let_lease_end(run_id)
    second.await_started()
    second.let_go()
    run = network.ended(run_id)
    assert run.state is RunState.SUCCEEDED
    once(network, run)
    assert "on first is silent, and its lease is over; going on with it" in second.said()
    assert first.ledger() == {"double-4": 1, "hold-8": 1}
    assert second.ledger() == {"hold-8": 1, "double-9": 1}


def test_a_machine_that_is_cut_off_beyond_its_lease_lets_go_when_it_is_back(network: Network) -> None:
    """It works on meanwhile, and can't know: what it has is refused, it says how the run has ended, and ends its workers. That
    the other machine has the same name changes nothing: until the lease is over it leaves the run alone."""
    first = network.machine("twin", "run", f"{FLOWS}:held", "x=4", "-q")
    first.await_started()
    second = network.machine("twin", "serve")
    assert network.ended(network.submit("doubled", 30)).state is RunState.SUCCEEDED  # the second one has looked around
    (run,) = network.store.runs(RunFilter(name="held"))
    assert run.token == 1
    network.link(first, "down")
    network.let_lease_end(run.id)
    second.await_started()
    second.let_go()
    assert network.ended(run.id).state is RunState.SUCCEEDED
    assert first.process.poll() is None
    network.link(first, "up")
    assert first.ended() != 0
    assert "was taken over by another process, and has ended since (succeeded)" in first.said()
    once(network, run)
    assert first.ledger() == {"double-4": 1, "hold-8": 1}
    assert second.ledger() == {"double-30": 1, "hold-8": 1, "double-9": 1}
