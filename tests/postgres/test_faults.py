"""A server that stops, restarts, drops connections, or takes no writes: nothing is lost, nothing is written twice."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from functools import partial
from types import SimpleNamespace

import psycopg
import pytest

from dagengine.errors import Fenced, StoreUnavailable
from dagengine.model import Claim, StepState
from dagengine.storage import postgres_connections, postgres_groups, postgres_wire
from dagengine.storage.interface import Store
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.postgres_connections import Link, Waiting
from dagengine.storage.postgres_errors import why_in_the_way
from tests.postgres.conftest import Open
from tests.postgres.server import Server, shared
from tests.postgres.test_opening import Passing
from tests.storage.kit import (
    DEFINITION,
    ME,
    PATIENCE,
    Outcome,
    begin,
    dead,
    elsewhere,
    event,
    record,
    recorded,
    step,
    succeed,
    write,
)

STEPS = 1_000


def assert_all_there(store: Store, claim: Claim, steps: int) -> None:
    """Every step ended once, and every event is there once."""
    states = Counter(found.state for found in store.steps(claim.run_number))
    assert states == {StepState.SUCCEEDED: steps}
    kinds = Counter(found.kind for found in store.events(claim.run_number))
    assert kinds == {f"end {seq}": 1 for seq in range(steps)}


def hand_over(store: Store, claim: Claim, steps: range) -> list[Outcome]:
    outcomes = [Outcome() for _ in steps]
    for seq, outcome in zip(steps, outcomes, strict=True):
        store.write(claim, [succeed(seq, seq), event(f"end {seq}", seq)], outcome)
    return outcomes


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_under_load_loses_and_repeats_nothing(server: Server, open_store: Open, how: signal.Signals) -> None:
    """What was handed over while the server was stopping, down and starting is recorded once."""
    store = open_store(server.url())
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(STEPS)), definitions=(DEFINITION,)))
    first = hand_over(store, claim, range(STEPS // 2))
    first[0].wait()
    server.stop(how)
    rest = hand_over(store, claim, range(STEPS // 2, STEPS))
    server.start()
    assert [outcome.wait() for outcome in first + rest] == [None] * STEPS
    assert_all_there(store, claim, STEPS)


def test_an_outage_is_no_busy_loop(server: Server, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand steps ready, and no server: few attempts, each after a longer wait; then all is recorded."""
    store = open_store(server.url())
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(STEPS)), definitions=(DEFINITION,)))
    attempts: list[float] = []
    several = threading.Event()
    wait = Waiting.wait

    def counted(self: Waiting, error: BaseException) -> bool:
        attempts.append(self._next)
        if len(attempts) == 5:
            several.set()
        return wait(self, error)

    monkeypatch.setattr(Waiting, "wait", counted)
    server.stop()
    outcomes = hand_over(store, claim, range(STEPS))
    assert several.wait(PATIENCE)
    server.start()
    assert [outcome.wait() for outcome in outcomes] == [None] * STEPS
    assert attempts == sorted(attempts)
    assert attempts[4] == 16 * attempts[0]
    assert_all_there(store, claim, STEPS)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_lost_answer_to_a_commit_is_looked_up(
    open_store: Open, url: str, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The connection ends in the middle of a transaction, or right after its COMMIT: recorded once either way."""
    store = open_store(url)
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)))
    run = postgres_wire.run
    lost: list[str] = []

    def losing(link: Link, prepared: set[bytes], commands: list[postgres_wire.Command]) -> None:
        if not lost and len(commands) > 2:
            lost.append("once")
            if after:
                run(link, prepared, commands)
            else:
                run(link, prepared, commands[:-1])
            link.close()
            raise psycopg.OperationalError("the connection is lost")
        run(link, prepared, commands)

    monkeypatch.setattr(postgres_groups, "run", losing)
    assert [outcome.wait() for outcome in hand_over(store, claim, range(2))] == [None, None]
    assert lost
    assert_all_there(store, claim, 2)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_transaction_that_was_sent_off_is_looked_up_when_its_answer_is_lost(
    open_store: Open, url: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """By whoever wrote the batch: the connection ends before, within or after it; it is recorded once either way."""
    store = open_store(url)
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)))
    send, receive = postgres_wire.send, postgres_wire.receive
    lost: list[str] = []

    def sending(link: Link, prepared: set[bytes], commands: list[postgres_wire.Command]) -> postgres_wire.Sent:
        if lost or when == "after":
            return send(link, prepared, commands)
        lost.append("once")
        if when == "between":
            send(link, prepared, commands[:-1])
        link.close()
        raise psycopg.OperationalError("the connection is lost")

    def receiving(link: Link, prepared: set[bytes], sent: postgres_wire.Sent) -> None:
        receive(link, prepared, sent)
        if not lost:
            lost.append("once")
            link.close()
            raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(postgres_groups, "send", sending)
    monkeypatch.setattr(postgres_groups, "receive", receiving)
    for seq in range(2):
        outcomes = elsewhere(lambda seq=seq: hand_over(store, claim, range(seq, seq + 1)))  # type: ignore[misc]
        assert outcomes[0].wait() is None
    assert lost
    assert_all_there(store, claim, 2)


def test_a_transaction_that_was_sent_off_under_an_old_claim_changes_nothing(open_store: Open, url: str) -> None:
    """Its owner is told who has the run."""
    store, other = open_store(url), open_store(url)
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
    taken = other.claim(claim.run_id, ME, dead)
    assert isinstance(write(store, claim, succeed(0, 0), event("end 0", 0)), Fenced)
    assert store.events(claim.run_number) == []
    recorded(other, taken, succeed(0, 0), event("end 0", 0))
    assert_all_there(store, claim, 1)


@pytest.mark.parametrize("on_its_own_thread", [False, True], ids=["main thread", "elsewhere"])
def test_connections_that_the_server_drops_are_made_again(open_store: Open, url: str, on_its_own_thread: bool) -> None:
    """As an administrator's pg_terminate_backend does: neither a write nor a question fails."""
    store = open_store(url)
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(30)), definitions=(DEFINITION,)))
    for seq in range(30):
        assert store.find_run("7f3a").steps == 30
        pids = [link.raw.info.backend_pid for link in store._readers._idle]
        pids.append(store._connection.link.raw.info.backend_pid)
        one = partial(hand_over, store, claim, range(seq, seq + 1))
        outcomes = elsewhere(one) if on_its_own_thread else one()
        for pid in pids:
            shared().run(f"SELECT pg_terminate_backend({pid})")
        assert outcomes[0].wait() is None
    assert_all_there(store, claim, 30)


def test_a_server_that_has_lost_what_it_acknowledged_is_not_written_to(open_store: Open, url: str) -> None:
    """After a failover to a replica that lagged behind, the run is let go of, with that reason."""
    store = open_store(url)
    claim = begin(store)
    recorded(store, claim, event("one"))
    schema = url.rpartition("schema=")[2]
    shared().run(f"UPDATE {schema}.run SET batch = batch - 1")
    error = write(store, claim, event("two"))
    assert isinstance(error, StoreUnavailable)
    assert "has lost what was recorded" in str(error)
    assert len(store.events(claim.run_number)) == 1


def test_a_deadlock_is_tried_again(open_store: Open, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two transactions that wait for each other: ours, which is the one that is ended, is done once more."""
    monkeypatch.setitem(postgres_connections._SETTINGS, "lock_timeout", "0")  # nothing but the deadlock ends a wait
    store = open_store(url)
    first, second = begin(store, "a"), begin(store, "b")
    met: list[BaseException] = []
    wait, run = Waiting.wait, postgres_wire.run
    has_first, other_waits = threading.Event(), threading.Event()
    lock = f"SELECT 1 FROM {url.rpartition('schema=')[2]}.run WHERE number = {{}} FOR UPDATE"

    def noted(self: Waiting, error: BaseException) -> bool:
        met.append(error)
        return wait(self, error)

    def in_two_parts(link: Link, prepared: set[bytes], commands: list[postgres_wire.Command]) -> None:
        """The first time: ours goes on to what the other has when the other waits for what ours has, as the server looks
        for a deadlock once, a second after ours has begun to wait."""
        if not has_first.is_set():
            begins, *commands = commands
            run(link, prepared, [begins, (postgres_wire.Statement("first", lock.format(first.run_number)), [])])
            has_first.set()
            assert other_waits.wait(PATIENCE)
        run(link, prepared, commands)

    monkeypatch.setattr(Waiting, "wait", noted)
    outcomes = [Outcome(), Outcome()]
    with psycopg.connect(**store._target.libpq) as other:  # type: ignore[arg-type]
        other.execute("SET deadlock_timeout = '1h'")  # so it is ours that is found
        other.execute(lock.format(second.run_number))
        holds, held = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            holds.set()
            held.wait(PATIENCE)

        store.write(first, [event("hold")], hold)
        assert holds.wait(PATIENCE)
        monkeypatch.setattr(postgres_groups, "run", in_two_parts)
        store.write(first, [event("x")], outcomes[0])
        store.write(second, [event("x")], outcomes[1])
        held.set()
        assert has_first.wait(PATIENCE)
        waiting = threading.Thread(target=other.execute, args=(lock.format(first.run_number),))
        waiting.start()
        while shared().run(f"SELECT cardinality(pg_blocking_pids({other.info.backend_pid}))") == [(0,)]:
            pass  # each question takes a few milliseconds
        other_waits.set()
        waiting.join()
        other.rollback()
    assert [outcome.wait() for outcome in outcomes] == [None, None]
    assert [type(error) for error in met] == [psycopg.errors.DeadlockDetected]
    assert [len(store.events(claim.run_number)) for claim in (first, second)] == [2, 1]


@pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
def test_what_takes_too_long_is_tried_again(
    open_store: Open, url: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """The server ends our statement, because another transaction holds the run: recorded when that one is over."""
    store = open_store(url)
    claim = begin(store)
    store._connection.link.raw.execute(f"SET {limit} = '500ms'")
    ended = threading.Event()
    wait = Waiting.wait

    def noted(self: Waiting, error: BaseException) -> bool:
        ended.set()
        return wait(self, error)

    monkeypatch.setattr(Waiting, "wait", noted)
    schema = url.rpartition("schema=")[2]
    outcome = Outcome()
    with psycopg.connect(**store._target.libpq) as other:  # type: ignore[arg-type]
        other.execute(f"SELECT 1 FROM {schema}.run FOR UPDATE")
        store.write(claim, [event("late")], outcome)
        assert ended.wait(PATIENCE)
        other.rollback()
    assert outcome.wait() is None
    assert [found.kind for found in store.events(claim.run_number)] == ["late"]


def test_a_read_only_server_is_told_when_patience_ends(
    server: Server, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary becomes a replica: what is handed over is waited for, then refused with that reason."""
    store = open_store(server.url(patience="1"))
    claim = begin(store)
    clock = [0.0]  # the second is that of the store's waits, however long it takes to connect
    monkeypatch.setattr(postgres_connections, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    store._connection.over = Passing(clock)
    server.restart(default_transaction_read_only="on")
    error = write(store, claim, event("late"))
    assert isinstance(error, StoreUnavailable)
    assert "read-only" in str(error)
    assert clock[0] == pytest.approx(1.0)


def test_a_server_that_takes_writes_again_is_written_to(
    server: Server, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a replica, or read-only, for a while: nothing is lost, nothing is written twice."""
    refused = threading.Event()
    wait = Waiting.wait

    def noted(self: Waiting, error: BaseException) -> bool:
        if "read-only" in why_in_the_way(error):
            refused.set()
        return wait(self, error)

    monkeypatch.setattr(Waiting, "wait", noted)
    store = open_store(server.url())
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(STEPS)), definitions=(DEFINITION,)))
    server.restart(default_transaction_read_only="on")
    outcomes = hand_over(store, claim, range(STEPS))
    assert refused.wait(PATIENCE)
    server.restart()
    assert [outcome.wait() for outcome in outcomes] == [None] * STEPS
    assert_all_there(store, claim, STEPS)


def test_a_server_that_may_lose_what_it_acknowledges_is_named_once(
    server: Server, open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """By who has something to lose: not by one that only looks. The store itself is sound."""
    server.restart(fsync="off")
    store = open_store(server.url())
    found = store.check()
    assert (found["integrity"], "recorded results are lost" in found["durability"]) == ("ok", True)
    assert not caplog.records
    begin(store, "a")
    begin(store, "b")
    [said] = [found.getMessage() for found in caplog.records]
    assert said.startswith(f"the store {store.url} is not safe: its server runs with fsync = off")


def test_a_server_that_is_down_at_the_start_is_waited_for(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as was asked for, and it is said; without that, it is an error at once."""
    refused = threading.Event()
    wait = Waiting.wait

    def noted(self: Waiting, error: BaseException) -> bool:
        refused.set()
        return wait(self, error)

    monkeypatch.setattr(postgres_connections, "NOTICE_AFTER", 0.0)
    server.stop()
    with pytest.raises(StoreUnavailable, match="--connect-timeout"):
        PostgresStore(server.url())
    monkeypatch.setattr(Waiting, "wait", noted)
    opened: list[PostgresStore] = []
    thread = threading.Thread(target=lambda: opened.append(PostgresStore(server.url(connect_timeout="3600"))))
    thread.start()
    assert refused.wait(PATIENCE)
    server.start()
    thread.join()
    [store] = opened
    assert begin(store).token == 1
    store.close()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"the store {store.url} does not answer: there is no server's socket")
    assert "waiting for up to" in said[0]
    assert "answers again" in said[-1]


def test_what_is_told_to_be_recorded_is_on_the_server_s_disk(server: Server, open_store: Open) -> None:
    """Also where the server's default is to tell before it is; renewing a lease is not worth that wait."""
    server.restart(synchronous_commit="off")
    store = open_store(server.url())
    begin(store)
    for link in (store._connection.link, *store._readers._idle):
        assert link.raw.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_closing_does_not_wait_for_a_server_that_is_gone(server: Server) -> None:
    """Somebody who has asked twice to stop is not kept for the whole of the store's patience."""
    store = PostgresStore(server.url(patience="3600"))
    claim = begin(store)
    server.stop()
    outcome = Outcome()
    store.write(claim, [event("late")], outcome)
    store.hurry()
    store.close()
    assert isinstance(outcome.wait(), StoreUnavailable)


def test_who_waits_for_a_connection_keeps_none_that_he_does_not_use(open_store: Open) -> None:
    """The story: of fifty processes each had one, waited for a second one, and the server had none left."""
    server = Server(max_connections="2", superuser_reserved_connections="0")
    try:
        server.start()
        stores = [open_store(server.url("runs")) for _ in range(2)]
        for number, store in enumerate(stores):
            recorded(store, begin(store, f"run-{number}"), event("here"))
        assert [store.find_run("run-1").id for store in stores] == ["run-1"] * 2
        for store in stores:
            store.close()
    finally:
        server.remove()


def test_a_pooler_gets_no_prepared_statements_and_no_session_state(
    open_store: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server's process is not the one that the connection was told of, each transaction stands for itself."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))
    store = open_store(url)
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(20)), definitions=(DEFINITION,)))
    for seq in range(20):
        recorded(store, claim, succeed(seq, seq))
        assert store.find_run("7f3a").steps == 20
    links = [store._connection.link, *store._readers._idle]
    for link in links:
        assert link.pooled
        assert link.raw.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert link.raw.execute("SHOW enable_hashjoin").fetchone() == ("on",)
