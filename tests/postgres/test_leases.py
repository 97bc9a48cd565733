"""Who owns a run on a server that several machines share: leases on its clock, takeover, and what the old owner is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dagengine import Engine, config, ending, task, workflow
from dagengine.cli.app import app
from dagengine.errors import Fenced, RunOwned
from dagengine.heartbeat import Heartbeat
from dagengine.model import RunState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage import queues
from dagengine.storage.writes import FinishRun
from dagengine.views import run_state
from tests.postgres.conftest import Open
from tests.postgres.server import shared
from tests.storage.kit import ME, PATIENCE, alive, begin, dead, event, new_run, process, recorded, write


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
    shown = CliRunner().invoke(app, ["show", "7f3a", "--store", url], catch_exceptions=False)
    assert "process 100 on host-a, which is silent" in shown.output


def test_a_dead_owner_is_replaced_before_its_lease_is_over(open_store: Open, url: str) -> None:
    """On its own machine a death is proved, and nobody waits."""
    store = open_store(url)
    begin(store)
    assert store.claim("7f3a", process("other"), dead).token == 2


def test_of_a_hundred_who_claim_or_take_at_once_one_has_the_run(open_store: Open, url: str) -> None:
    """From ten stores, with a connection for each: the others are told who has it, or find nothing to begin."""
    stores = [open_store(url) for _ in range(10)]
    begin(stores[0])
    stores[0].create_run(new_run("queued"), None, also=lambda at: queues.put(stores[0], at, queues.Entry("queued")))
    start = threading.Barrier(100)
    claimed: list[str] = []
    refused: list[str] = []
    taken: list[str] = []

    def contend(number: int) -> None:
        store, me = stores[number % 10], process(f"p{number}", pid=1_000 + number)
        start.wait(PATIENCE)
        try:
            store.claim("7f3a", me, lambda owner: owner.id != "me")
            claimed.append(f"process {me.pid} on {me.host}")
        except RunOwned as error:
            refused.append(str(error.owner))
        taken.extend(queues.take(store, "default", me.id, 1, 1e10).runs)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1
    assert refused == claimed * 99
    assert taken == ["queued"]


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


def test_the_end_of_a_run_of_another_machine_is_waited_for(
    open_store: Open, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can hear of it: the record is looked at soon, then ever more rarely."""
    owner, here = open_store(url), open_store(url)
    claim = begin(owner)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 7:
            recorded(owner, claim, FinishRun(RunState.FAILED, 1.0))

    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    ended = ending.wait_for_end(here, config.load(home=tmp_path), "7f3a", 60.0)
    assert ended.state is RunState.FAILED
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


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
