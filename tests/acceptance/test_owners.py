"""Deaths of the controller, of workers, and two who want the same run. Real processes, real signals."""

from __future__ import annotations

import ast
import os
import platform
import re
import select
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from dagengine.errors import RunOwned
from dagengine.identity import is_here
from dagengine.model import RunState
from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter
from tests.acceptance.crash_flow import place_of
from tests.acceptance.processes import await_end, kill, of_folder, start
from tests.postgres.server import Server
from tests.storage.kit import PATIENCE

PROGRAM = "tests.acceptance.held_flow"
RESULT = "42"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for pipe in ("started", "go"):
        os.mkfifo(tmp_path / pipe)
    return tmp_path


def await_started(folder: Path) -> int:
    """Block until the middle step runs; returns its worker's pid."""
    return int((folder / "started").read_text())


def let_go(folder: Path) -> None:
    (folder / "go").write_text("go\n")


def executed(folder: Path) -> Counter[str]:
    return Counter((folder / "ledger").read_text().split())


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output.strip(), errors.strip()


def test_a_killed_controller_takes_its_workers_with_it_and_the_run_goes_on(folder: Path) -> None:
    """SIGKILL to the controller alone: nothing survives it, what was recorded stands."""
    process = start(PROGRAM, folder, "begin")
    worker = await_started(folder)
    everyone = of_folder(folder)
    assert {process.pid, worker} < {*everyone}  # between them the parent of the workers
    kill(process.pid)
    assert await_end(everyone) == []
    process.communicate()
    process = start(PROGRAM, folder, "resume")
    await_started(folder)
    let_go(folder)
    assert ended(process)[:2] == (0, RESULT)
    assert executed(folder) == Counter({"held/prepare[0]": 1, "held/hold[0]": 2, "held/finish[0]": 1})


def test_of_two_resumers_one_works_and_the_other_says_who_does(folder: Path) -> None:
    """Started at once, after a crash."""
    process = start(PROGRAM, folder, "begin")
    await_started(folder)
    kill(process.pid)
    assert await_end(of_folder(folder)) == []
    process.communicate()
    both = [start(PROGRAM, folder, "resume") for _ in range(2)]
    loser = first_to_end(both)
    (winner,) = [process for process in both if process is not loser]
    status, _, errors = ended(loser)
    assert status == 4
    assert f"is being worked on by process {winner.pid} on" in errors
    assert len(errors.splitlines()) == 1
    await_started(folder)
    let_go(folder)
    assert ended(winner)[:2] == (0, RESULT)
    assert executed(folder)["held/hold[0]"] == 2


@pytest.mark.parametrize(("kind", "count"), [("sqlite", 100), ("postgres", 50)])
def test_of_a_hundred_resumers_one_works(kind: str, count: int, tmp_path: Path) -> None:
    """The others are told by whom. On a server that has not connections enough for all of them they wait for one. Its lease is
    longer than so many processes keep the owner from the processor."""
    server = Server(max_connections="40") if kind == "postgres" else None
    try:
        if server is not None:
            server.start()
            (tmp_path / "store-url").write_text(server.url("runs", connect_timeout="600", lease="600"))
        status, said, errors = ended(start("tests.acceptance.many_resumers", tmp_path, str(count)))
        assert (status, ast.literal_eval(said)) == (0, {4: count - 1, 0: 1}), errors
        told = re.findall(r"is being worked on by process (\d+) on", errors)
        assert (len(told), len(set(told))) == (count - 1, 1)
    finally:
        if server is not None:
            server.remove()
    assert executed(tmp_path) == Counter({"held/prepare[0]": 1, "held/hold[0]": 2, "held/finish[0]": 1})


def first_to_end(processes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    poll = select.poll()
    descriptors = {os.pidfd_open(process.pid): process for process in processes}
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    ((descriptor, _), *_) = poll.poll()
    for other in descriptors:
        os.close(other)
    return descriptors[descriptor]


def test_a_killed_worker_is_named_and_its_step_tried_again(folder: Path) -> None:
    """On a budget of its own: the task has no retries."""
    process = start(PROGRAM, folder, "begin")
    os.kill(await_started(folder), signal.SIGKILL)
    await_started(folder)
    let_go(folder)
    assert ended(process)[:2] == (0, RESULT)
    store = open_store(str(folder / "store.db"))
    try:
        (run,) = store.runs(RunFilter())
        assert run.state is RunState.SUCCEEDED
        attempts = store.attempts(run.number, seq=1)
        assert [attempt.outcome for attempt in attempts] == ["lost", "succeeded"]
        assert attempts[0].failure is not None
        assert "SIGKILL" in attempts[0].failure.message
        assert "worker.lost" in [event.kind for event in store.events(run.number)]
    finally:
        store.close()


def test_a_stopped_worker_does_not_hold_up_the_end_of_a_killed_controller(folder: Path) -> None:
    """SIGSTOP is no shelter."""
    process = start(PROGRAM, folder, "begin")
    os.kill(await_started(folder), signal.SIGSTOP)
    everyone = of_folder(folder)
    kill(process.pid)
    assert await_end(everyone) == []
    process.communicate()


NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""A command in a pid namespace of its own, as in a container; the host's name stays as it is."""


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode != 0,
    reason="pid namespaces can't be made here",
)
def test_an_owner_in_another_container_of_this_name_is_told_from_a_dead_one(folder: Path) -> None:
    """Its pid means nothing here. While it lives nobody takes its run; when it has been killed, anybody does."""
    process = start(PROGRAM, folder, "begin", within=NAMESPACE)
    await_started(folder)
    store = open_store(str(place_of(folder)))
    try:
        (run,) = store.runs(RunFilter())
        assert run.owner is not None
        assert run.owner.host == platform.node()
        assert not is_here(run.owner)
        status, _, errors = ended(start(PROGRAM, folder, "resume"))
        assert status == RunOwned.exit_status
        assert "is being worked on by process" in errors
        everyone = of_folder(folder)
        kill(process.pid)
        assert await_end(everyone) == []
        process.communicate()
        process = start(PROGRAM, folder, "resume")
        await_started(folder)
        let_go(folder)
        assert ended(process) == (0, RESULT, "")
        assert executed(folder) == {"held/prepare[0]": 1, "held/hold[0]": 2, "held/finish[0]": 1}
    finally:
        store.close()
