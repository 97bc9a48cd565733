"""How long runs are kept, and what a pass of the collector removes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dagengine.model import RunState, Value
from dagengine.retention import DAY, Retention, collect, remove
from dagengine.storage import open_artifacts
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.interface import FinishRun, Store
from dagengine.storage.lifetime_notes import pin
from dagengine.storage.memory_run import new_record
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import DEFINITION, begin, new_run, record, recorded, step, succeed

LATER = 1e9  # long after runs of `kit` were created
FOR_EVER = Retention(None, None, None)
BIG = b"x" * 20_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one on disk."""
    opened = SqliteStore(str(tmp_path / "store.db"), clock=lambda: LATER)
    yield opened
    opened.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    """An empty folder of them."""
    return LocalArtifacts(str(tmp_path / "artifacts"))


def put(artifacts: LocalArtifacts, data: bytes, age: float = 30 * DAY) -> str:
    """An artifact that was put `age` seconds before LATER."""
    digest = sha256(data).hexdigest()
    artifacts.put(digest, len(data), data)
    os.utime(artifacts.local_path(digest, len(data)), (LATER - age, LATER - age))
    return digest


def ended(store: Store, run_id: str, digest: str, state: RunState = RunState.SUCCEEDED, at: float = LATER) -> int:
    """A run that ended at `at`, with one large value."""
    claim = begin(store, run_id)
    recorded(
        store,
        claim,
        record(step(0), definitions=(DEFINITION,)),
        succeed(0, 0, Value(digest, len(BIG))),
        FinishRun(state, at),
    )
    return claim.run_number


def test_what_may_go_follows_from_state_and_age() -> None:
    """Records and values have ages of their own; what has not ended, or waits for a person, never goes."""
    kept = Retention(records=90, payloads=14, failed_payloads=30)
    run = replace(new_record(1, new_run(), None), finished_at=1000.0)
    verdicts = {}
    for state in RunState:
        aged = replace(run, state=state)
        verdicts[state] = [
            [kept.has_expired(aged, 1000.0 + age), kept.is_over(aged, 1000.0 + age)] for age in (14, 15, 31, 91)
        ]
    never = [[False, False]] * 4
    for state in (RunState.PENDING, RunState.RUNNING, RunState.WAITING, RunState.PAUSED):
        assert verdicts[state] == never
    assert verdicts[RunState.SUCCEEDED] == [[False, False], [True, False], [True, False], [True, True]]
    for state in (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED, RunState.MISMATCH):
        assert verdicts[state] == [[False, False], [False, False], [True, False], [True, True]]
    assert not FOR_EVER.is_over(replace(run, state=RunState.FAILED), 1e12)


def test_a_pass_removes_what_is_old_and_keeps_the_rest(store: Store, artifacts: LocalArtifacts, tmp_path: Path) -> None:
    """Old runs with their logs, values of less old ones, artifacts that nobody names; not what is pinned, or live."""
    digests = {
        name: put(artifacts, BIG + name.encode()) for name in ("old", "values", "fresh", "pinned", "live", "lost")
    }
    ended(store, "old", digests["old"], at=LATER - 100 * DAY)
    values = ended(store, "values", digests["values"], at=LATER - 20 * DAY)
    ended(store, "fresh", digests["fresh"])
    pin(store, ended(store, "pinned", digests["pinned"], at=LATER - 100 * DAY), LATER, "ada", "")
    live = begin(store, "live")
    recorded(
        store, live, record(step(0), definitions=(DEFINITION,)), succeed(0, 0, Value(digests["live"], len(BIG) + 4))
    )
    logs = tmp_path / "logs"
    (logs / "old").mkdir(parents=True)
    created = Retention(records=90 * DAY, payloads=14 * DAY)
    said = collect(store, artifacts, logs, created, dry_run=True, clock=lambda: LATER)
    assert (said.runs, said.expired, said.artifacts) == (["old"], ["values"], 1)
    done = collect(store, artifacts, logs, created, clock=lambda: LATER)
    assert (done.runs, done.expired, done.artifacts) == (["old"], ["values"], 3)
    assert done.complete
    assert not (logs / "old").exists()
    assert {name for name, digest in digests.items() if artifacts.exists(digest)} == {"fresh", "pinned", "live"}
    assert store.expired_runs() == {values: LATER}
    again = collect(store, artifacts, logs, created, clock=lambda: LATER)
    assert (again.runs, again.expired, again.artifacts, again.kept_artifacts) == ([], [], 0, 3)


def test_a_pass_without_time_does_nothing_and_says_so(store: Store, artifacts: LocalArtifacts) -> None:
    """It is not complete, and the next one, with time, is."""
    put(artifacts, BIG)
    assert not collect(store, artifacts, None, Retention(), seconds=0).complete
    assert collect(store, artifacts, None, Retention(), clock=lambda: LATER).artifacts == 1


def test_young_artifacts_are_left_alone(store: Store, artifacts: LocalArtifacts) -> None:
    """The row that names them may be on its way."""
    put(artifacts, BIG, age=60)
    assert collect(store, artifacts, None, FOR_EVER, clock=lambda: LATER).kept_artifacts == 1


def test_an_artifact_that_is_put_again_is_young_again(store: Store, artifacts: LocalArtifacts) -> None:
    """Between being looked at and being removed: the one that puts it is about to name it."""
    digest = put(artifacts, BIG)
    artifacts.put(digest, len(BIG), BIG)
    assert artifacts.discard(digest, LATER, lambda: False) == 0
    put(artifacts, BIG)
    assert artifacts.discard(digest, LATER, lambda: True) == 0
    assert artifacts.discard(digest, LATER, lambda: False) == len(BIG)
    assert not artifacts.exists(digest)


def test_remote_artifacts_are_listed_and_collected_with_a_margin(tmp_path: Path) -> None:
    """Where nobody can be kept from putting, what was put lately stays, however the clocks are."""
    remote = open_artifacts("memory://retention", cache=str(tmp_path))
    digest = sha256(BIG).hexdigest()
    remote.put(digest, len(BIG), BIG)
    assert [(found.digest, found.size) for found in remote.listed(digest[:2])] == [(digest, len(BIG))]
    assert list(remote.listed("zz")) == []
    assert remote.discard(digest, 1e12, lambda: False) == 0
    assert remote.exists(digest)


def test_a_removed_run_leaves_its_artifacts_to_the_next_pass(store: Store, artifacts: LocalArtifacts) -> None:
    """Two runs with one value: it goes with the second of them."""
    digest = put(artifacts, BIG)
    for name in ("one", "two"):
        ended(store, name, digest)
    for name, left in (("one", 0), ("two", 1)):
        remove(store, None, store.find_run(name), LATER)
        assert collect(store, artifacts, None, FOR_EVER, clock=lambda: LATER).artifacts == left
