"""`dagengine serve` with real processes: runs are worked on once, whoever is killed, and limits hold for all servers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dagengine.identity import short_path
from dagengine.model import NewRun, ProcessRecord, RunState
from dagengine.recording import record_run
from dagengine.serving import hints, serve
from dagengine.serving.submission import Submission, place
from dagengine.storage import queues, servers
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.queue_rules import QueueSettings
from dagengine.workflows import load
from tests.postgres.server import fresh_schema, shared
from tests.serving.conftest import FLOWS, FOLDER, SECONDS, Site


def _submit_without_code(site: Site) -> str:
    """A run whose workflow can't be loaded by anybody."""

    def record(run_id: str, queued: Callable[[Any], None]) -> None:
        entry = {"module": "gone", "qualname": "gone", "file": str(site.folder / "gone.py")}
        site.store.create_run(NewRun(run_id, "gone", entry, b"", (), 1.0), None, also=queued)

    return place(site.store, site.settings.control, Submission(), record)[0]


def test_submitted_runs_are_worked_on_and_the_server_stops_when_asked(any_site: Site) -> None:
    """Those that were submitted before it came, and those that come while it serves; also one that fails, and one whose
    code is gone. It loads nothing that is heavy."""
    site = any_site
    before, gone = site.submit("doubled", 1), _submit_without_code(site)
    server = site.serve()
    assert site.ended(before).state is RunState.SUCCEEDED
    after, bad = site.submit("doubled", 2), site.submit("failing", 3)
    assert site.ended(after).state is RunState.SUCCEEDED
    assert site.ended(bad).state is RunState.FAILED
    failure = site.ended(gone).failure
    assert failure is not None
    assert "there is no file" in failure.message
    status = dict(line.split(":", 1) for line in Path(f"/proc/{server.pid}/status").read_text().splitlines())
    assert int(status["VmHWM"].split()[0]) < 80_000
    site.stop(server)
    assert site.ledger() == {"double-1": 1, "double-2": 1}
    assert queues.counts(site.store) == {}


def test_the_runs_of_a_killed_host_go_on_in_another_one(any_site: Site) -> None:
    """What was recorded is not done again; the step that was running is."""
    site = any_site
    server = site.serve()
    run = site.submit("held", 4)
    os.kill(site.await_started(), signal.SIGKILL)
    site.await_started()
    site.let_go()
    assert site.ended(run).state is RunState.SUCCEEDED
    assert site.ledger() == {"double-4": 1, "hold-8": 2, "double-9": 1}
    assert "a host ended with signal SIGKILL; it had 1 run" in site.stop(server)


def test_the_death_of_a_server_costs_no_work(any_site: Site) -> None:
    """Its host goes on with what it has; the next server begins what had not begun, and hears of the end."""
    site = any_site
    queues.save_queue(site.store, "q", QueueSettings(concurrency=1))
    server = site.serve()
    run, waits = site.submit("held", 4, queue="q"), site.submit("doubled", 20, queue="q")
    site.await_started()
    server.kill()
    server.wait()
    second = site.serve()
    site.let_go()
    assert site.ended(run).state is RunState.SUCCEEDED
    assert site.ended(waits).state is RunState.SUCCEEDED
    site.stop(second)
    assert site.ledger() == {"double-4": 1, "hold-8": 1, "double-9": 1, "double-20": 1}
    assert queues.counts(site.store) == {}


def test_what_a_server_took_and_never_began_is_taken_from_it_when_it_is_dead(site: Site) -> None:
    """Between the two lines: the row says that it has begun, and no process knows of it."""
    run = site.submit("doubled", 1)
    assert queues.take(site.store, "default", "a server that died", 1, 1e10).runs == (run,)
    server = site.serve()
    assert site.ended(run).state is RunState.SUCCEEDED
    assert f"run {run[:12]} of doubled: the server that had it is gone; going on with it" in site.stop(server)


def test_a_server_that_is_stopped_leaves_its_runs_to_the_next(site: Site) -> None:
    """SIGTERM drains: the step that does not end in time is ended, the run goes on elsewhere."""
    server = site.serve("--grace", "0s")
    run = site.submit("held", 4)
    site.await_started()
    site.stop(server)
    assert site.store.find_run(run).state is RunState.INTERRUPTED
    second = site.serve()
    site.await_started()
    site.let_go()
    assert site.ended(run).state is RunState.SUCCEEDED
    site.stop(second)
    assert site.ledger() == {"double-4": 1, "hold-8": 2, "double-9": 1}


def test_a_run_that_somebody_began_by_hand_goes_on_when_its_process_is_killed(site: Site) -> None:
    """It was never queued; it is found because nobody owns it any more."""
    by_hand = site.run("held", "x=4")
    site.await_started()
    server = site.serve()
    site.ended(site.submit("doubled", 30))  # it serves; the run has a living owner, and is left alone
    (run,) = site.store.runs(RunFilter(name="held"))
    owner = run.owner
    assert owner is not None
    by_hand.kill()
    by_hand.wait()
    site.await_started()
    site.let_go()
    assert site.ended(run.id).state is RunState.SUCCEEDED
    said = f"run {run.id[:12]} of held: process {owner.pid} on {owner.host} is dead; going on with it"
    assert said in site.stop(server)
    assert site.ledger() == {"double-4": 1, "hold-8": 2, "double-9": 1, "double-30": 1}


def test_the_run_of_a_machine_that_is_gone_goes_on_when_its_lease_is_over(tmp_path: Path) -> None:
    """Nobody here can prove that its owner is dead; until its lease is over it is left alone."""
    schema = fresh_schema()
    site = Site(tmp_path, shared().url(schema, lease="3600"))
    gone = ProcessRecord("gone", "another-machine", "boot", 4711, 1.0, 1.0)
    try:
        found = load(f"{FLOWS}:held")
        run = record_run(site.store, site.artifacts, found, (7,), {})
        site.store.claim(run, gone, lambda process: True)
        server = site.serve()
        assert site.ended(site.submit("doubled", 1)).state is RunState.SUCCEEDED
        assert site.store.find_run(run).owner == gone
        shared().run(f"UPDATE {schema}.process SET expires_at = 0 WHERE id = 'gone'")
        site.await_started()
        site.let_go()
        assert site.ended(run).state is RunState.SUCCEEDED
        said = f"run {run[:12]} of held: process 4711 on another-machine is silent, and its lease is over; going on"
        assert said in site.stop(server)
        assert site.ledger() == {"double-1": 1, "double-7": 1, "hold-14": 1, "double-15": 1}
    finally:
        site.close()


def test_the_run_of_a_silent_host_goes_on_elsewhere_although_its_server_lives(tmp_path: Path) -> None:
    """The host of another machine's server is stopped, or hangs: its server can't know, its lease does."""
    schema = fresh_schema()
    site = Site(tmp_path, shared().url(schema, lease="3600"))
    there, host = (ProcessRecord(name, "another-machine", "boot", 4711, 1.0, 1.0) for name in ("there", "host"))
    try:
        run = site.submit("doubled", 1)
        servers.seen(site.store, there, {}, time.time())
        assert queues.take(site.store, "default", there.id, 1, 1e10).runs == (run,)
        site.store.claim(run, host, lambda process: True)
        shared().run(f"UPDATE {schema}.process SET expires_at = 0 WHERE id = 'host'")
        server = site.serve()
        assert site.ended(run).state is RunState.SUCCEEDED
        said = f"run {run[:12]} of doubled: process 4711 on another-machine is silent, and its lease is over; going on"
        assert said in site.stop(server)
        assert queues.counts(site.store) == {}
    finally:
        site.close()


def test_a_run_that_kills_every_host_fails_and_the_others_do_not(site: Site) -> None:
    """It is found among the others, and says how its processes died."""
    server = site.serve()
    deadly, harmless = site.submit("deadly"), site.submit("doubled", 1)
    assert site.ended(harmless).state is RunState.SUCCEEDED
    record = site.ended(deadly)
    assert record.state is RunState.FAILED
    assert record.failure is not None
    assert record.failure.message.startswith("its process died 3 times, the last time alone in it: signal SIGKILL")
    site.stop(server)
    assert site.ledger()["deadly"] == 3


def test_a_host_whose_workers_cannot_go_on_is_given_up(site: Site) -> None:
    """As one that was killed: its runs go on in others, and the run that does it to all of them fails."""
    server = site.serve()
    deadly, harmless = site.submit("workless", 1), site.submit("doubled", 1)
    record = site.ended(deadly)
    assert record.state is RunState.FAILED
    assert record.failure is not None
    assert "the last time alone in it: exit status 70" in record.failure.message
    assert site.ended(harmless).state is RunState.SUCCEEDED
    assert "the workers can't go on" in site.stop(server)
    assert site.ledger()["forkers-end-1"] == 3


def test_a_machine_on_which_no_host_can_begin_costs_no_run(any_site: Site) -> None:
    """Its artifacts are not there. The story: each run of the queue was tried three times, and failed. Now they are given
    back, another server could have them, and they are begun here when a host can be."""
    site = any_site
    queues.save_queue(site.store, "q", QueueSettings(concurrency=2))
    place = site.folder / "mounted"
    place.touch()
    runs = [site.submit("doubled", x, queue="q") for x in range(3)]
    server = site.serve("--artifacts", str(place / "artifacts"))
    site.await_said("no run can be begun here: the artifact folder can't be used")
    site.await_said("Next attempt in 1 s")  # the first one that is made without a run
    assert queues.counts(site.store) == {"q": (3, 0)}
    assert {site.store.find_run(run).state for run in runs} == {RunState.PENDING}
    place.unlink()
    place.mkdir(exist_ok=True)  # a host that is tried now makes it
    assert [site.ended(run).state for run in runs] == [RunState.SUCCEEDED] * 3
    assert "a host ended" not in site.stop(server)
    assert site.ledger() == {"double-0": 1, "double-1": 1, "double-2": 1}


def test_a_run_whose_artifacts_were_away_goes_on_in_the_host_that_let_go_of_it(any_site: Site) -> None:
    """The folder is taken away and brought back. The story: the run was still recorded as the host's, which lived for
    another run, so nobody could take it up, and the host did not know of it any more."""
    site = any_site
    pipe = site.folder / "go-large"
    os.mkfifo(pipe)
    server = site.serve("--workers", "2")
    other = site.submit("held", 4)
    site.await_started()
    run = site.submit("large", 7)
    site.await_started()
    artifacts = Path(site.settings.artifacts.value)
    away = artifacts.rename(artifacts.with_name("away"))
    pipe.write_text("go\n")
    site.await_said("StoreUnavailable: the artifact folder can't be used: no such file or directory")
    away.rename(artifacts)
    site.await_started()
    pipe.write_text("go\n")
    assert site.ended(run).state is RunState.SUCCEEDED
    site.let_go()
    assert site.ended(other).state is RunState.SUCCEEDED
    assert "a host ended" not in site.stop(server)
    assert site.ledger() == {"double-4": 1, "hold-8": 1, "double-9": 1, "large-7": 2}


def test_two_servers_keep_the_limits_of_a_queue_together(any_site: Site) -> None:
    """Twelve runs of three keys: each runs once, and never two of one key at a time."""
    site = any_site
    queues.save_queue(site.store, "q", QueueSettings(per_key=1))
    runs = [site.submit("alone", f"k{n % 3}", queue="q", key=f"k{n % 3}") for n in range(12)]
    servers = [site.serve(), site.serve()]
    assert {site.ended(run).state for run in runs} == {RunState.SUCCEEDED}
    for server in servers:
        site.stop(server)
    assert site.ledger() == {f"section-{run}": 1 for run in runs}


def test_a_wait_that_looks_while_the_run_ends_is_told_how_it_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look at the run and the one at the queue. The story: it returned the run as it was at the first look."""
    from dagengine import ending
    from dagengine.engine import Engine
    from dagengine.runtime import InlineRuntime

    def is_expected(store: Store, run_id: str) -> bool:
        with Engine(store.url, home=site.settings.home.value, runtime=InlineRuntime()) as engine:
            if store.find_run(run_id).state is RunState.PENDING:
                engine.resume(run_id).wait()
        return False

    monkeypatch.setenv(FOLDER, str(site.folder))
    monkeypatch.setattr(ending, "is_expected", is_expected)
    assert site.ended(site.submit("doubled", 1)).state is RunState.SUCCEEDED


def test_a_server_that_does_not_answer_is_no_error_for_who_waits(tmp_path: Path) -> None:
    """It hangs, or is stopped, and there is another one. The story: that one was to be waited for for less than no time."""
    with ExitStack() as open_ones:
        for name in ("a", "b"):
            silent = open_ones.enter_context(socket.socket(socket.AF_UNIX))
            with short_path(tmp_path, f"{hints.PREFIX}{name}.sock") as path:
                silent.bind(path)
            silent.listen()
        hints.wait_at_servers(tmp_path, "7f3a", 0.01)


def test_what_is_scheduled_is_begun_and_told_its_logical_time(site: Site) -> None:
    """Its time came while nobody served: it is begun once, by the first of two servers."""
    from dagengine.cli.results import read_result
    from dagengine.serving.schedules import When, create_schedule
    from dagengine.storage import schedules

    workflow = load(f"{FLOWS}:timed")
    create_schedule(site.store, "yearly", (workflow, (4,), {}), When("0 0 1 1 *", tz="Europe/Paris"))
    schedules.pause(site.store, "yearly", False, datetime(2025, 12, 31, 23, tzinfo=UTC).timestamp())
    both = [site.serve(), site.serve()]
    servers_hear = site.submit("doubled", 1)
    site.ended(servers_hear)
    until_true(
        lambda: site.store.runs(RunFilter(name="timed"))
    )  # the one may hear of it while the other begins the first
    (run,) = site.store.runs(RunFilter(name="timed"))
    assert run.id == "yearly.20251231T230000Z"
    record = site.ended(run.id)
    assert record.state is RunState.SUCCEEDED
    assert read_result(site.store, site.settings, record) == "8 2025-12-31"
    for server in both:
        site.stop(server)
    assert site.ledger() == {"double-1": 1, "double-4": 1}


def test_runs_that_wait_without_a_process_are_woken(any_site: Site) -> None:
    """By their time, and by a signal: the process that let go of them is gone."""
    from dagengine.engine import Engine
    from dagengine.runtime import InlineRuntime

    site = any_site
    flows = [load(f"{FLOWS}:{name}") for name in ("sleeping", "waiting")]
    with Engine(site.store, home=site.settings.home.value, runtime=InlineRuntime(), wakes=False) as engine:
        runs = [engine.start(flow, number) for number, flow in enumerate(flows)]
        for run in runs:
            run.wait()
        assert {run.state for run in runs} == {RunState.WAITING}
        server = site.serve()
        engine.signal(runs[1].id, "more", 4)
        assert {site.ended(run.id).state for run in runs} == {RunState.SUCCEEDED}
    site.stop(server)
    assert site.ledger() == {"double-0": 1, "double-5": 1}


def until_true(what: Callable[[], object]) -> None:
    moment, until = threading.Event(), time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < until
        moment.wait(0.01)


@contextmanager
def served_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[serve.Server]:
    """By a server of this process, which has looked around and does not do so again by itself."""
    monkeypatch.setattr(serve, "LOOK_SECONDS", 3_600.0)
    monkeypatch.setenv(FOLDER, str(site.folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    server = serve.Server(site.settings)
    thread = threading.Thread(target=server.work)
    thread.start()
    try:
        until_true(lambda: server._settle_at > time.monotonic())
        yield server
    finally:
        server.stop()
        thread.join(SECONDS)
    assert not thread.is_alive()


def test_the_death_of_a_process_that_began_after_the_last_look_is_heard(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has said that it is there; and who goes on with its run was ready before."""
    with served_here(site, monkeypatch) as server:
        by_hand = site.run("held", "x=4")
        site.await_started()
        until_true(lambda: server._hosts._spare is not None)
        spare = server._hosts._spare
        assert spare is not None
        by_hand.kill()
        by_hand.wait()
        site.await_started()
        (run,) = site.store.runs(RunFilter(name="held"))
        assert run.owner is not None
        assert run.owner.pid == spare[0].pid
        site.let_go()
        assert site.ended(run.id).state is RunState.SUCCEEDED
    assert spare[0].poll() is not None
    assert site.ledger() == {"double-4": 1, "hold-8": 2, "double-9": 1}


def test_a_process_that_ends_in_order_leaves_nothing_to_look_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was told of it is not kept busy by programs that come and go, nor does it stay ready for their deaths."""
    with served_here(site, monkeypatch) as server:
        monkeypatch.setattr(server, "_settle", None)  # nobody calls it
        by_hand = site.run("held", "x=4")
        site.await_started()
        until_true(lambda: server._hosts._spare is not None)
        site.let_go()
        assert by_hand.wait(SECONDS) == 0
        until_true(lambda: server._hosts._spare is None)
