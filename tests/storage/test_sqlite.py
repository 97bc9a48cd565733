"""The SQLite store beyond the contract: its commits, its plans, and what it tells when the disk or another process fails it."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dagengine.errors import InternalError, StoreFull, StoreUnavailable
from dagengine.model import RunState, StepState
from dagengine.storage import sqlite_errors, sqlite_files, sqlite_groups, statements
from dagengine.storage.sqlite import SqliteStore
from dagengine.storage.writes import FinishRun, Write
from tests.storage.kit import (
    DEFINITION,
    ME,
    NOW,
    PATIENCE,
    Outcome,
    attempt,
    begin,
    dead,
    event,
    fail,
    record,
    recorded,
    step,
    succeed,
    write,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


@pytest.fixture
def open_store(path: str) -> Iterator[Callable[..., SqliteStore]]:
    """Opens the store at `path`; what is left open is closed."""
    opened: list[SqliteStore] = []

    def open_it(on_commit: Callable[[str, int], None] | None = None) -> SqliteStore:
        opened.append(SqliteStore(path, on_commit))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


class HeldUp:
    """A writer that is held up in a callback, so that what is handed over meanwhile waits for it together."""

    def __init__(self, store: SqliteStore, run_id: str = "anchor") -> None:
        self._go_on = threading.Event()
        in_callback = threading.Event()

        def hold(_: object) -> None:
            in_callback.set()
            self._go_on.wait(PATIENCE)

        store.write(begin(store, run_id), [event("hold")], hold)
        assert in_callback.wait(PATIENCE)

    def go_on(self) -> None:
        self._go_on.set()


# ---- commits --------------------------------------------------------------------------------


def test_what_waits_together_is_committed_together(open_store: Callable[..., SqliteStore]) -> None:
    """Batches of several runs that wait for the writer share one commit; refused ones among them cost no other."""
    commits: list[tuple[str, int]] = []
    store = open_store(lambda when, number: commits.append((when, number)))
    claims = [begin(store, f"run-{index}") for index in range(3)]
    held_up = HeldUp(store)
    commits.clear()
    outcomes = []
    for number in range(20):
        for claim in claims:
            outcomes.append(Outcome())
            first = (record(step(0), definitions=(DEFINITION,)),) if number == 0 else ()
            store.write(claim, [*first, event(f"{number}")], outcomes[-1])
    held_up.go_on()
    assert [outcome.wait() for outcome in outcomes] == [None] * 60
    [before, after] = commits
    assert (before[0], after[0], before[1]) == ("before", "after", after[1])


def test_a_hook_sees_every_commit(open_store: Callable[..., SqliteStore]) -> None:
    """Each transaction of a run's data is announced before and after, with its number."""
    seen: list[tuple[str, int]] = []
    store = open_store(lambda when, number: seen.append((when, number)))
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
    store.request_cancel("7f3a", NOW)
    store.claim("7f3a", ME, dead)
    assert seen == [(when, number) for number in (1, 2, 3, 4) for when in ("before", "after")]


_KILLED = """
import os, signal, sys
from dagengine.model import RunState
from dagengine.storage.writes import FinishRun
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import *

def run(folder, when, number):
    def kill(now, count):
        if (now, count) == (when, number):
            os.kill(os.getpid(), signal.SIGKILL)
    store = SqliteStore(folder + "/store.db", kill)
    claim = begin(store)
    acknowledged = os.open(folder + "/acknowledged", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for batch in (
        [record(step(0), step(1, 0), step(2, 1), definitions=(DEFINITION,))],
        [succeed(0, 0), attempt(0, outcome="succeeded")],
        [succeed(1, 1), attempt(1, outcome="succeeded")],
        [succeed(2, 2), FinishRun(RunState.SUCCEEDED, NOW)],
    ):
        recorded(store, claim, *batch)
        os.write(acknowledged, b"x")

SqliteStore(sys.argv[1] + "/ready.db").close()  # what has to be imported is, before the forks
for number in range(1, 6):
    for when in ("before", "after"):
        folder = f"{sys.argv[1]}/{when}-{number}"
        os.mkdir(folder)
        child = os.fork()
        if not child:
            run(folder, when, number)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


def test_a_kill_around_any_commit_leaves_a_prefix(tmp_path: Path) -> None:
    """Killed before the n-th commit, n - 1 batches are recorded; after it, n are. What was acknowledged is there."""
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=True, timeout=PATIENCE)
    for commits in range(1, 6):
        for when, done in (("before", commits - 1), ("after", commits)):
            folder = tmp_path / f"{when}-{commits}"
            store = SqliteStore(str(folder / "store.db"))
            found = store.check()
            assert (found["integrity"], found["runs"], found["steps"]) == ("ok", min(done, 1), 3 if done > 1 else 0)
            if done:
                run = store.find_run("7f3a")
                states = [one.state for one in store.steps(run.number)]
                succeeded = max(done - 2, 0)
                waiting = found["steps"] - succeeded
                assert states == [StepState.SUCCEEDED] * succeeded + [StepState.WAITING] * waiting
                assert len(store.attempts(run.number)) == min(succeeded, 2)
                assert run.state is (RunState.SUCCEEDED if done == 5 else RunState.RUNNING)
            acknowledged = folder / "acknowledged"
            assert (len(acknowledged.read_bytes()) if acknowledged.exists() else 0) <= max(done - 1, 0)
            store.close()


_FORGETFUL = """
import sys
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import *
store = SqliteStore(sys.argv[1])
claim = begin(store)
for number in range(500):
    store.write(claim, [event(str(number))], lambda error: None)
"""


def test_a_forgotten_store_ends_with_the_program(path: str) -> None:
    """Without close, the program ends all the same, and what it handed over is recorded."""
    subprocess.run([sys.executable, "-c", _FORGETFUL, path], check=True, timeout=PATIENCE)
    store = SqliteStore(path)
    assert len(store.events(store.find_run("7f3a").number)) == 500
    store.close()


def test_the_writer_s_thread_ends_with_the_store(open_store: Callable[..., SqliteStore]) -> None:
    """Nothing of a closed store goes on."""
    before = set(threading.enumerate())
    store = open_store()
    assert set(threading.enumerate()) - before
    store.close()
    assert set(threading.enumerate()) <= before  # those of earlier tests may end meanwhile


_FORKING = """
import os, sys
from dagengine.errors import StoreUnavailable
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import *
store = SqliteStore(sys.argv[1])
claim = begin(store)
store.find_run('7f3a')
child = os.fork()
if not child:
    refused = 0
    for use in (
        lambda: store.find_run('7f3a'),
        lambda: store.write(claim, [event('x')], print),
        lambda: store.request_cancel('7f3a', 0.0),
    ):
        try:
            use()
        except StoreUnavailable as error:
            refused += 'after a fork' in str(error)
    store.close()
    os._exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
recorded(store, claim, event('still here'))
store.close()
"""


def test_a_forked_process_may_not_use_the_store(path: str) -> None:
    """Everything is refused after a fork, and closing is harmless to the process that opened the store."""
    subprocess.run([sys.executable, "-c", _FORKING, path], check=True, timeout=PATIENCE)


def test_readers_and_the_writer_do_not_wait_for_each_other(open_store: Callable[..., SqliteStore]) -> None:
    """A question that is being answered holds up no commit, and sees the state that it began with."""
    store = open_store()
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
    with store._pool.reading() as connection:
        assert statements.next_seq(connection, run=claim.run_number).fetchone() == (1,)
        recorded(store, claim, record(step(1)))
        assert statements.next_seq(connection, run=claim.run_number).fetchone() == (1,)
    assert store.frontier(claim.run_number).next_seq == 2


def test_many_threads_may_ask_at_once(open_store: Callable[..., SqliteStore]) -> None:
    """More questions at once than connections are kept for: all are answered, and few connections stay."""
    store = open_store()
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(50)), definitions=(DEFINITION,)))
    together = threading.Barrier(12)
    answers: list[int] = []

    def ask() -> None:
        together.wait(PATIENCE)
        answers.extend(len(store.frontier(claim.run_number).steps) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [50] * 240
    assert len(store._readers._idle) <= 4


# ---- plans ----------------------------------------------------------------------------------

PLANS = {
    "find_run": [statements.run_by_id, statements.runs_by_prefix],
    "runs": [statements.runs_listed(by_state, by_name) for by_state in (False, True) for by_name in (False, True)],
    "frontier": [
        *(statements.next_seq, statements.waiting_steps, statements.waiting_edges, statements.waiting_attempts),
        *(statements.ended_between, statements.definitions),
    ],
    "values": [statements.values, statements.failures, statements.finish_order],
    "replay": [statements.recorded_calls, statements.edges_between],
    "people": [
        statements.steps_listed(True, False, ()),
        statements.steps_listed(False, True, ()),
        statements.steps_listed(False, False, (StepState.FAILED,)),
        statements.attempts_listed(True, False),
        statements.attempts_listed(False, True),
        statements.events,
    ],
}


def plan_of(connection: sqlite3.Connection, sql: str) -> list[str]:
    """What SQLite does for each table, without the rows of a JSON parameter."""
    rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?")).fetchall()
    return [str(row[3]) for row in rows if "listed" not in row[3]]


@pytest.mark.parametrize("question", PLANS)
def test_no_question_passes_what_it_does_not_ask_for(question: str, open_store: Callable[..., SqliteStore]) -> None:
    """Each table is searched by a key or an index; nothing is scanned, so the cost is that of the answer."""
    with open_store()._pool.reading() as connection:
        for statement in PLANS[question]:
            plan = plan_of(connection, statement.compiled[0])
            assert plan
            assert not [line for line in plan if line.startswith("SCAN")], plan


def test_steps_that_are_asked_for_by_number_are_found_by_it(open_store: Callable[..., SqliteStore]) -> None:
    """A list of numbers is looked up one by one: no other step of the run is passed, of which there may be millions."""
    asked = [
        *(statements.values, statements.failures, statements.finish_order, statements.edges_of),
        *(statements.unrecorded_among, statements.greatest_attempts, statements.steps_listed(False, True, ())),
    ]
    with open_store()._pool.reading() as connection:
        for statement in asked:
            [searched, *_] = plan_of(connection, statement.compiled[0])
            assert "(run=? AND seq=?)" in searched or "(run=? AND child=?)" in searched, searched


def test_what_is_left_is_found_by_its_index(open_store: Callable[..., SqliteStore]) -> None:
    """The frontier is read from the index of waiting steps alone, and a claim opens steps by that of unsuccessful ones."""
    from dagengine.storage.sqlite import _REOPEN_STEPS

    with open_store()._pool.reading() as connection:
        for statement in (statements.waiting_steps, statements.waiting_edges, statements.waiting_attempts):
            [first, *others] = plan_of(connection, statement.compiled[0])
            assert "INDEX step_waiting (run=? AND state=?)" in first
            assert not [line for line in others if "(run=?)" in line], others
        [reopen] = plan_of(connection, _REOPEN_STEPS)[:1]
        assert "INDEX step_unsuccessful (run=? AND state=?)" in reopen


def test_runs_of_one_state_are_found_in_their_order(open_store: Callable[..., SqliteStore]) -> None:
    """The newest runs are the first that an index gives: nothing is sorted, and a limit ends the search."""
    with open_store()._pool.reading() as connection:
        for statement in PLANS["runs"]:
            assert not [line for line in plan_of(connection, statement.compiled[0]) if "TEMP B-TREE" in line]


# ---- when it fails --------------------------------------------------------------------------


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many pages the database may have, for connections that are opened from then on."""
    pages = [1 << 30]

    def connect(path: str) -> sqlite3.Connection:
        connection = sqlite_files.connect(path)
        connection.execute(f"PRAGMA max_page_count={pages[0]}").fetchone()
        return connection

    monkeypatch.setattr(sqlite_groups, "connect", connect)

    def set_pages(count: int) -> None:
        pages[0] = count

    return set_pages


def test_a_full_disk_is_named_and_the_run_goes_on_later(
    path: str, open_store: Callable[..., SqliteStore], small_disk: Callable[[int], None]
) -> None:
    """No batch of the group is recorded, nor a later one of its runs; with room and a new claim all is well."""
    small_disk(40)
    store = open_store()
    claim, other = begin(store), begin(store, "other")
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
    error = write(store, claim, *(event("x" * 4000) for _ in range(100)))
    assert isinstance(error, StoreFull)
    assert path in str(error)
    assert "bytes are free" in str(error)
    assert isinstance(write(store, claim, succeed(0, 0)), StoreFull)
    recorded(store, other, event("small"))
    small_disk(1 << 30)
    store.close()
    again = open_store()
    claim = again.claim("7f3a", ME, dead)
    assert again.events(claim.run_number) == []
    recorded(again, claim, succeed(0, 0))


_IO_ERROR = """
import resource, sys
from dagengine.errors import StoreUnavailable
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import *

store = SqliteStore(sys.argv[1])
claim = begin(store)
recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
error = write(store, claim, *(event("x" * 4000) for _ in range(100)))
assert isinstance(error, StoreUnavailable) and "Check the disk" in str(error), error
assert isinstance(write(store, claim, succeed(0, 0)), StoreUnavailable)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
claim = store.claim("7f3a", ME, dead)
assert store.events(claim.run_number) == []
recorded(store, claim, succeed(0, 0))
assert store.check()["integrity"] == "ok"
store.close()
"""


def test_a_failing_disk_stops_the_run_and_not_the_store(path: str) -> None:
    """After an I/O error in a transaction nothing more is written under the claim; a new claim finds a sound store."""
    subprocess.run([sys.executable, "-c", _IO_ERROR, path], check=True, timeout=PATIENCE)


_HOLDING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_locked_store_says_who_holds_it(
    path: str, open_store: Callable[..., SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process keeps the write lock for too long, the batch is refused, and the process is named."""
    monkeypatch.setattr(sqlite_files, "BUSY_TIMEOUT", 0.05)
    store = open_store()
    claim = begin(store)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    store._connection.close()  # the timeout is a connection's: let it be opened with the short one
    error = write(store, claim, event("x"))
    holder.communicate(timeout=PATIENCE)
    assert isinstance(error, StoreUnavailable)
    assert "has been locked" in str(error)
    assert f"process {holder.pid}" in str(error) or not Path("/proc/locks").exists()
    recorded(store, store.claim("7f3a", ME, dead), event("free again"))


def test_damage_is_named_and_check_says_what_it_is(path: str, open_store: Callable[..., SqliteStore]) -> None:
    """Pages full of noise are an error of the store's, not of SQLite's, and `check` reports them without one."""
    store = open_store()
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(5000)), definitions=(DEFINITION,)))
    store.close()
    with Path(path).open("r+b") as file:
        file.seek(200 * 4096)
        file.write(b"\xff" * 60 * 4096)
    damaged = open_store()
    assert damaged.check()["integrity"] != "ok"
    with pytest.raises(StoreUnavailable, match="is damaged") as caught:
        list(damaged.recorded_calls(claim.run_number))
    assert "\n" not in str(caught.value)


def test_a_store_that_was_removed_is_missed(path: str, open_store: Callable[..., SqliteStore]) -> None:
    """A file that is gone while the store is open is an error that names it, whatever is asked next."""
    store = open_store()
    begin(store)
    for file in Path(path).parent.iterdir():
        file.unlink()
    Path(path).parent.rmdir()
    with pytest.raises(StoreUnavailable, match="there is no folder"):
        store.find_run("7f3a")


def test_every_error_of_sqlite_has_a_word(path: str) -> None:
    """No code of SQLite's leaves the store as it is, and none that a user can meet is called a bug."""
    users = {"SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN"}
    users |= {"SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB"}
    for name in users | {"SQLITE_MISUSE", "SQLITE_ERROR"}:
        error = sqlite3.OperationalError("what SQLite says")
        error.sqlite_errorcode = getattr(sqlite3, name) | 0x100  # extended codes have their kind in the low byte
        told = sqlite_errors.translate(error, path)
        assert isinstance(told, InternalError) is (name not in users), name
        assert path in str(told)
        assert "\n" not in str(told)


def test_no_connection_is_left_to_the_garbage_collector(open_store: Callable[..., SqliteStore]) -> None:
    """A closed store has closed its connections: a new one finds nobody in its way."""
    store = open_store()
    begin(store)
    store.find_run("7f3a")
    store.close()
    gc.collect()
    assert store._readers._idle == []
    assert store._connection._connection is None


def test_ends_are_told_apart_from_attempts_of_the_same_group(open_store: Callable[..., SqliteStore]) -> None:
    """In one group: steps recorded, tried, ended, and an attempt that starts and ends is written once."""
    store = open_store()
    claim = begin(store)
    held_up = HeldUp(store)
    batches: list[Sequence[Write]] = [[record(*(step(seq) for seq in range(100)), definitions=(DEFINITION,))]]
    batches += [[attempt(seq)] for seq in range(100)]
    batches += [[attempt(seq, outcome="succeeded"), succeed(seq, seq)] for seq in range(99)]
    batches.append([attempt(99, outcome="failed"), fail(99, 99), FinishRun(RunState.FAILED, NOW)])
    outcomes = [Outcome() for _ in batches]
    for batch, outcome in zip(batches, outcomes, strict=True):
        store.write(claim, batch, outcome)
    held_up.go_on()
    assert {outcome.wait() for outcome in outcomes} == {None}
    assert store.counts(claim.run_number) == {("extract", StepState.SUCCEEDED): 99, ("extract", StepState.FAILED): 1}
    attempts = store.attempts(claim.run_number)
    assert [(one.seq, one.number) for one in attempts] == [(seq, 1) for seq in range(100)]
    assert [one.outcome for one in attempts] == ["succeeded"] * 99 + ["failed"]
