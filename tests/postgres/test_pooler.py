"""Behind PgBouncer in transaction mode: runs, restarts of the pooler and of the server, and no trace of us in its sessions.

That the store keeps its promises there is what tests/contract says of the store `pooler`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dagengine import Engine, task, workflow
from dagengine.heartbeat import Heartbeat
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.postgres import PostgresStore
from tests.postgres.conftest import Open
from tests.postgres.pooler import NONE, SESSIONS, Pooler, binary
from tests.postgres.server import Server
from tests.postgres.test_faults import assert_all_there, hand_over
from tests.storage.kit import DEFINITION, ME, PATIENCE, begin, record, recorded, step

STEPS = 300


@pytest.fixture
def pooler(server: Server) -> Iterator[Pooler]:
    """Before a server of the test's own."""
    if binary() is None:
        pytest.skip(NONE)
    own = Pooler(server)
    yield own
    own.remove()


@task
def double(x: int) -> int:
    return 2 * x


@workflow
def doubled(count: int) -> int:
    return sum_of(double.map(range(count)))


@task
def sum_of(numbers: list[int]) -> int:
    return sum(numbers)


def test_runs_leave_no_trace_in_the_sessions_that_others_share(pooler: Pooler, tmp_path: Path) -> None:
    """Neither settings nor prepared statements, nor anything that is listened for."""
    PostgresStore(pooler.url("runs")).close()  # the pooler may have been starting
    with contextlib.ExitStack() as busy:  # as many transactions at once as there may be sessions
        for _ in range(SESSIONS):
            connection = busy.enter_context(psycopg.connect(pooler.url(""), prepare_threshold=None))
            connection.execute("SELECT 1")
    with Engine(pooler.url("runs", lease="1"), home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.start(doubled, 100).result() == 9_900
    found = set()
    with psycopg.connect(host=str(pooler.folder), port=6432, user="tester", dbname="postgres") as other:
        other.autocommit = True
        other.prepare_threshold = None
        for _ in range(4 * SESSIONS):
            row = other.execute(
                "SELECT pg_backend_pid(), current_setting('enable_seqscan'), current_setting('statement_timeout'),"
                " current_setting('plan_cache_mode'), (SELECT count(*) FROM pg_prepared_statements),"
                " (SELECT count(*) FROM pg_listening_channels())"
            ).fetchone()
            assert row is not None
            found.add(row)
    assert {row[1:] for row in found} == {("on", "0", "auto", 0, 0)}
    assert len(found) == SESSIONS, "it was not another session each time"


def test_a_request_to_cancel_is_heard_with_the_next_renewal(pooler: Pooler, open_store: Open) -> None:
    """There is nothing to listen in; the owner looks every third of its lease."""
    owner, other = open_store(pooler.url("runs", lease="1")), open_store(pooler.url("runs"))
    claim = begin(owner)
    asked, renewed = threading.Event(), threading.Event()

    def told(owned: set[int], held: dict[int, bool]) -> None:
        renewed.set()
        if held.get(claim.run_number):
            asked.set()

    heartbeat = Heartbeat(owner, ME, lambda: {claim.run_number}, told)
    heartbeat.start()
    try:
        assert renewed.wait(PATIENCE)
        other.request_cancel("7f3a", 5.0)
        assert asked.wait(PATIENCE)
    finally:
        heartbeat.stop()


@pytest.mark.parametrize("which", ["the pooler", "the server"])
def test_a_restart_behind_the_pooler_loses_and_repeats_nothing(
    server: Server, pooler: Pooler, open_store: Open, which: str
) -> None:
    """What was handed over before, while and after the one or the other was gone is recorded once."""
    store = open_store(pooler.url("runs"))
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(STEPS)), definitions=(DEFINITION,)))
    first = hand_over(store, claim, range(STEPS // 2))
    first[0].wait()
    if which == "the pooler":
        pooler.kill()
    else:
        server.stop(signal.SIGQUIT)
    rest = hand_over(store, claim, range(STEPS // 2, STEPS))
    if which == "the pooler":
        pooler.start()
    else:
        server.start()
    assert [outcome.wait() for outcome in first + rest] == [None] * STEPS
    assert_all_there(store, claim, STEPS)
