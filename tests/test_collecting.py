"""What a pass of the collector removes, and what it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dagengine.collecting import Only, collect, remove
from dagengine.model import RunState, Value
from dagengine.retention import DAY, Retention, Rule
from dagengine.storage import open_artifacts
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.lifetime_notes import pin
from dagengine.storage.sqlite import SqliteStore
from dagengine.storage.writes import FinishRun
from tests.storage.kit import DEFINITION, ME, begin, new_run, record, recorded, step, succeed

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
        remove(store, None, name, LATER)
        assert collect(store, artifacts, None, FOR_EVER, clock=lambda: LATER).artifacts == left


def test_a_pass_may_be_told_which_runs_to_touch(store: Store, artifacts: LocalArtifacts) -> None:
    """By state and by tag; rules of the retention go by tags, too."""
    for name, tags, state in (
        ("a", {"env": "prod"}, RunState.SUCCEEDED),
        ("b", {"env": "test"}, RunState.SUCCEEDED),
        ("c", {"env": "test"}, RunState.FAILED),
        ("d", {}, RunState.FAILED),
    ):
        claim = store.create_run(replace(new_run(name), facts={"tags": tags}), ME)
        assert claim is not None
        recorded(store, claim, FinishRun(state, LATER - 100 * DAY))

    def gone(retention: Retention, only: Only | None = None) -> set[str]:
        done = collect(store, artifacts, None, retention, dry_run=True, only=only, clock=lambda: LATER)
        return set(done.runs)

    assert gone(Retention()) == {"a", "b", "c", "d"}
    assert gone(Retention(), Only(tags=(("env", None),))) == {"a", "b", "c"}
    assert gone(Retention(), Only((RunState.FAILED,), (("env", "test"),))) == {"c"}
    assert gone(Retention(rules=(Rule(tags=(("env", "prod"),), records=1e9),))) == {"b", "c", "d"}


def test_the_first_runs_go_when_there_are_too_many_steps(store: Store, artifacts: LocalArtifacts) -> None:
    """As many as it takes, and none that is pinned, young, live, or kept for ever by a rule."""
    ages = (50, 40, 30, 20, 0.5)
    numbers = [
        ended(store, f"run-{number}", sha256(b"%d" % number).hexdigest(), at=LATER - age * DAY)
        for number, age in enumerate(ages)
    ]
    pin(store, numbers[0], LATER, "ada", "")
    recorded(store, begin(store, "live"), record(step(0), definitions=(DEFINITION,)))
    most = replace(FOR_EVER, records_max=4)
    for dry in (True, False):
        done = collect(store, artifacts, None, most, dry_run=dry, clock=lambda: LATER)
        assert done.runs == ["run-1", "run-2"]
    assert store.figures().steps == 4
    done = collect(store, artifacts, None, replace(FOR_EVER, records_max=0), clock=lambda: LATER)
    assert done.runs == ["run-3"]
    assert {run.id for run in store.runs(RunFilter())} == {"run-0", "run-4", "live"}


def test_the_first_runs_lose_their_values_when_too_many_bytes_are_needed(
    store: Store, artifacts: LocalArtifacts
) -> None:
    """Bytes count that somebody needs; a value that another run names as well frees nothing by going."""
    size = len(BIG)
    digests = [put(artifacts, BIG[:-1] + b"%d" % number) for number in range(4)]
    numbers = [
        ended(store, f"run-{number}", digest, at=LATER - (50 - number) * DAY)
        for number, digest in enumerate([digests[0], digests[1], digests[0], digests[2]])
    ]
    young = put(artifacts, BIG[:-1] + b"y", age=60)
    ended(store, "young", young, at=LATER - 60)
    put(artifacts, BIG[:-1] + b"n", age=60)  # which nobody names yet
    limited = replace(FOR_EVER, payloads_max=3 * size)
    done = collect(store, artifacts, None, limited, clock=lambda: LATER)
    assert done.needed_bytes == 3 * size
    assert done.expired == ["run-0", "run-1"]
    assert set(store.expired_runs()) == set(numbers[:2])
    assert [artifacts.exists(digest) for digest in digests] == [True, False, True, False]
    again = collect(store, artifacts, None, limited, clock=lambda: LATER)
    assert (again.expired, again.artifacts, again.complete) == ([], 0, True)
