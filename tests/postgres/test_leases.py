"""Who owns a run on a server that several machines share: leases on its clock, takeover, and what the old owner is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dagengine import Engine, task, workflow
from dagengine.errors import Fenced, RunOwned
from dagengine.heartbeat import Heartbeat
from dagengine.model import RunState
from dagengine.runtime.inline import InlineRuntime
from dagengine.views import run_state
from tests.postgres.conftest import Open
from tests.postgres.server import shared
from tests.storage.kit import ME, PATIENCE, alive, begin, dead, event, process, recorded, write


def expire(url: str, process_id: str) -> None:
    """Let the process's lease have ended a second ago."""
    schema = url.rpartition("schema=")[2].partition("&")[0]
    shared().run(
        f"UPDATE {schema}.process SET expires_at = extract(epoch FROM clock_timestamp()) - 1 WHERE id = '{process_id}'"
    )


def test_an_owner_that_may_live_keeps_the_run_for_its_lease(open_store: Open, url: str) -> None:
    """Nothing here can prove that a process of another machine is dead: it owns the run until its lease is over."""
    store = open_store(url)
    begin(store)
    with pytest.raises(RunOwned, match="process 100 on host-a"):
        store.claim("7f3a", process("other"), alive)
    expire(url, "me")
    assert store.claim("7f3a", process("other"), alive).token == 2


def test_a_lease_that_is_renewed_begins_anew(open_store: Open, url: str) -> None:
    """`renew` moves the end of the lease on, and names the runs that the process owns."""
    store = open_store(url)
    claim = begin(store)
    expire(url, "me")
    assert store.find_run("7f3a").lease_expired
    assert store.renew(ME) == {claim.run_number: False}
    assert not store.find_run("7f3a").lease_expired
    with pytest.raises(RunOwned):
        store.claim("7f3a", process("other"), alive)


def test_a_run_whose_owner_is_silent_looks_crashed(open_store: Open, url: str) -> None:
    """To people, too: it can be resumed."""
    store = open_store(url)
    begin(store)
    assert run_state(store.find_run("7f3a"), alive) is RunState.RUNNING
    expire(url, "me")
    assert run_state(store.find_run("7f3a"), alive) is RunState.CRASHED


def test_a_dead_owner_is_replaced_before_its_lease_is_over(open_store: Open, url: str) -> None:
    """On its own machine a death is proved, and nobody waits."""
    store = open_store(url)
    begin(store)
    assert store.claim("7f3a", process("other"), dead).token == 2


def test_an_owner_that_wakes_after_its_lease_is_refused_and_told_by_whom(open_store: Open, url: str) -> None:
    """Its first write, from a store of its own, changes nothing, and names the process that has the run now."""
    first, second = open_store(url), open_store(url)
    old = begin(first)
    expire(url, "me")
    new = second.claim("7f3a", replace(process("other", pid=200), host="host-b"), alive)
    error = write(first, old, event("late"))
    assert isinstance(error, Fenced)
    assert "process 200 on host-b" in str(error)
    recorded(second, new, event("run.resumed"))
    assert [found.kind for found in first.events(old.run_number)] == ["run.resumed"]


def test_a_request_to_cancel_is_heard_at_once(open_store: Open, url: str) -> None:
    """From another process, on another machine: the owner hears of it before its next renewal is due."""
    owner, other = open_store(url), open_store(url)
    claim = begin(owner)
    asked = threading.Event()
    renewed = threading.Event()

    def told(owned: set[int], held: dict[int, bool]) -> None:
        renewed.set()
        if held.get(claim.run_number):
            asked.set()

    owner.lease = 1_000.0  # renewed every five minutes: what is heard before is heard by the notice
    heartbeat = Heartbeat(owner, ME, lambda: {claim.run_number}, told)
    heartbeat.start()
    try:
        assert renewed.wait(PATIENCE)
        other.request_cancel("7f3a", 5.0)
        assert asked.wait(PATIENCE)
    finally:
        heartbeat.stop()


release = threading.Event()
reached = threading.Event()


@task
def hold() -> int:
    reached.set()
    release.wait(PATIENCE)
    return 1


@workflow
def held() -> int:
    return hold()


def test_an_engine_hears_that_its_run_was_taken_over(open_store: Open, url: str, tmp_path: Path) -> None:
    """Before it has anything to write: the next renewal finds that the run is not among its own any more."""
    release.clear()
    reached.clear()
    other = open_store(url)
    with Engine(f"{url}&lease=1", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(held)
        assert reached.wait(PATIENCE)
        other.claim(run.id, replace(process("other", pid=200), host="host-b"), dead)
        with pytest.raises(Fenced, match="process 200 on host-b"):
            run.result()
        release.set()
    assert other.find_run(run.id).state is RunState.RUNNING
