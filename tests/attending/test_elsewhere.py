"""Tries of an Airflow task that go on in another environment, which an interpreter leads to. Without Airflow; real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dagengine.airflow_plugin.attending import Work
from dagengine.airflow_plugin.commands import CommandClient, Elsewhere
from dagengine.airflow_plugin.elsewhere import READ_KEY
from dagengine.airflow_plugin.outcomes import Kind, Outcome, is_reference
from dagengine.errors import BadArguments, BadOption, LoadError, RunFailed, RunNotFound
from dagengine.model import RunState
from tests.acceptance.processes import await_end
from tests.attending.site import Site

HEAVY = ("sqlalchemy", "alembic", "pyarrow", "msgspec", "cloudpickle", "networkx", "fsspec", "grpc", "click", "psycopg")


@pytest.fixture(autouse=True)
def _another_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of it are known by a variable, and find the package."""
    monkeypatch.setenv("DAGENGINE_TEST_FOLDER", str(site.folder))


def start(site: Site, work: Work, python: str = sys.executable) -> Elsewhere:
    attendant = Elsewhere(python, work, lambda level, text: site.said.append(text))
    site.attendants.append(attendant)
    attendant.start()
    return attendant


def attend(site: Site, workflow: str, try_number: int = 1, **said: Any) -> Outcome:
    return site.end(start(site, site.work(workflow, try_number, **said)))


def test_a_try_goes_on_in_the_other_environment_as_it_does_here(site: Site) -> None:
    """Log, failure with its step, retry that repeats nothing, result."""
    attendant = start(site, site.work("adds"))
    outcome = site.end(attendant)
    assert outcome.kind is Kind.FAILED
    assert "failed in step adds/second[0]: ValueError: not yet" in outcome.text
    assert "ValueError: not yet" in str(attendant.cause)
    assert attendant.run_id == site.key.engine_id
    (site.folder / "ok").touch()
    assert attend(site, "adds", 2).value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 2}
    assert any("begins in this process, 1 step is done already" in line for line in site.said)


def test_what_goes_there_and_comes_back_is_json(site: Site) -> None:
    """A lock is refused; a reference is read there; a result that is no JSON comes back as a reference."""
    assert attend(site, "adds", kwargs={"x": threading.Lock()}).kind is Kind.FAILED_FOR_GOOD
    assert is_reference(attend(site, "returns", kwargs={"what": "tuple"}).value)
    (site.folder / "ok").touch()
    read = {READ_KEY: {"run": site.key.engine_id, "place": {"store": site.store}}}
    with CommandClient(sys.executable, store=site.store) as client:
        with pytest.raises(BadArguments, match="is a tuple"):
            client.result(site.key.engine_id)
        run_id = client.submit(f"{site.file}:returns", kwargs={"what": read})
        assert client.state(run_id) is RunState.PENDING


def test_the_run_is_ended_with_its_task(site: Site) -> None:
    """Told over the pipe: signals of Airflow's don't reach the other process."""
    attendant = start(site, site.work("holds"))
    pids = site.await_started()
    attendant.stop("cancel")
    assert site.end(attendant).text.startswith("the task was ended")
    assert site.state() is RunState.CANCELLED
    assert await_end(pids) == []


def test_a_killed_task_leaves_nothing_in_the_other_environment(site: Site) -> None:
    """SIGKILL to the task: the other process sees its pipe end, and the next try takes the run over at once."""
    (site.folder / "try.py").write_text(
        "import sys\n"
        "from dagengine.airflow_plugin.attending import Work\n"
        "from dagengine.airflow_plugin.commands import Elsewhere\n"
        "from dagengine.airflow_plugin.identity import TaskKey\n"
        f"work = Work({site.key!r}, 1, {str(site.file) + ':holds'!r}, (), {{'x': 3}}, store={site.store!r},"
        " machine={'workers': 1})\n"
        "try_ = Elsewhere(sys.executable, work, print)\n"
        "try_.start(); try_.wait(); print(try_.outcome())\n"
    )
    killed = site.process(str(site.folder / "try.py"))
    pids = site.await_started()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert await_end(pids) == []
    attendant = start(site, site.work("holds", 2))
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 7
    assert site.ledger() == {"first-3": 1, "hold-6": 2}


def test_a_command_client_does_what_hooks_and_triggers_need(site: Site) -> None:
    """States, ends, results, resuming and cancelling, with the errors that a client here would raise."""
    from dagengine.awaited import Awaited

    assert attend(site, "adds").kind is Kind.FAILED
    run_id = site.key.engine_id
    with CommandClient(sys.executable, store=site.store) as client:
        assert client.states([run_id, "none"]) == {run_id: RunState.FAILED}
        ends = client.ends([Awaited(run_id), Awaited(run_id, "adds/first[0]")])
        assert list(ends.values()) == ["failed", "succeeded"]
        with pytest.raises(RunFailed, match="not yet"):
            client.result(run_id)
        assert client.resume(run_id) is True
        assert client.resume(run_id) is False
        assert client.cancel(run_id) is RunState.CANCELLED
        with pytest.raises(RunNotFound):
            client.state("f" * 32)
        with pytest.raises(LoadError, match="has no workflow addss"):
            client.submit(f"{site.file}:addss")


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_an_interpreter_that_is_none_is_one_clear_error(site: Site, python: str) -> None:
    """Of the client, and of a try."""
    with pytest.raises(BadOption, match=python), CommandClient(python, store=site.store) as client:
        client.state("x")
    outcome = site.end(start(site, site.work("adds"), python))
    assert outcome.kind in (Kind.FAILED, Kind.FAILED_FOR_GOOD)
    assert python in outcome.text


def test_airflows_environment_needs_none_of_our_dependencies(site: Site, tmp_path: Path) -> None:
    """The thin side works where nothing but this package is."""
    script = tmp_path / "thin.py"
    script.write_text(
        f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
        "from dagengine.airflow_plugin.commands import CommandClient, Elsewhere\n"
        f"with CommandClient({sys.executable!r}, store={site.store!r}) as client: print(client.states(['x']))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr
