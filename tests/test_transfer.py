"""Runs taken from one store to another, in a file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dagengine import transfer
from dagengine.errors import ArtifactDamaged, ArtifactMissing, BadArguments, RunExists, RunOwned, StoreUnavailable
from dagengine.identity import this_process
from dagengine.model import PayloadInput, RunRecord, RunState, Value
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.origins import origin, origins
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.storage.transfer import PAGE
from dagengine.storage.writes import FinishRun
from dagengine.transfer import export_run, import_run
from tests.postgres.server import fresh_schema, shared
from tests.storage.kit import (
    DEFINITION,
    NOW,
    attempt,
    begin,
    changed,
    dead,
    event,
    fail,
    new_run,
    record,
    recorded,
    step,
    succeed,
)

BIG, ARGUMENT = b"x" * 20_000, b"y" * 30_000
KINDS: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqliteStore(str(folder / "store.db")),
    "postgres": lambda _: PostgresStore(shared().url(fresh_schema(), lease="3600")),
}


class Place:
    """A store with its artifacts."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        self.store = KINDS[kind](folder)
        self.artifacts = LocalArtifacts(str(folder / "artifacts"))

    def put(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.artifacts.put(digest, len(data), data)
        return digest


@pytest.fixture(params=[("sqlite", "postgres"), ("postgres", "sqlite")], ids="-to-".join)
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    """Where a run comes from, and where it goes."""
    here, there = (Place(kind, tmp_path / kind) for kind in request.param)
    yield here, there
    here.store.close()
    there.store.close()


def failed_run(place: Place) -> RunRecord:
    """A run that failed half-way, with more steps than fit on a page and a bit of everything."""
    store = place.store
    claim = begin(store)
    argument = PayloadInput(place.put(ARGUMENT), len(ARGUMENT))
    steps = [step(0), step(1, 0, argument, 0), *(step(seq, 0) for seq in range(2, PAGE + 10))]
    recorded(
        store,
        claim,
        record(*steps, definitions=(DEFINITION,)),
        attempt(0, 1, "failed"),
        attempt(0, 2, "succeeded"),
        succeed(0, 0, Value(place.put(BIG), len(BIG))),
        origin(0, {"by": "cache"}),
        changed(1, 1, 0, Value(place.put(ARGUMENT), len(ARGUMENT))),
        changed(2, 2, 0),
        fail(3, 3),
        event("run.started"),
        FinishRun(RunState.FAILED, NOW),
    )
    return store.find_run("7f3a")


def test_a_run_arrives_as_it_was(places: tuple[Place, Place], tmp_path: Path) -> None:
    """Every row, every artifact; and it goes on there, where it stopped here."""
    here, there = places
    run = failed_run(here)
    file = tmp_path / "run.tar"
    assert export_run(here.store, here.artifacts, run, file) == file.stat().st_size
    assert import_run(there.store, there.artifacts, file) == run.id
    found = there.store.find_run(run.id)
    assert (found.state, found.call, found.facts, found.token) == (run.state, run.call, run.facts, run.token)
    for ask in (
        lambda store, number: store.steps(number),
        lambda store, number: list(store.recorded_calls(number)),
        lambda store, number: store.attempts(number),
        lambda store, number: store.events(number),
        lambda store, number: store.definitions(number),
        lambda store, number: store.saved_state(number, 0),
        lambda store, number: store.values(number, [0, 1]),
        lambda store, number: store.failures(number, [3]),
        origins,
    ):
        assert ask(there.store, found.number) == ask(here.store, run.number)
    for data in (BIG, ARGUMENT):
        assert there.artifacts.exists(sha256(data).hexdigest())
    claim = there.store.claim(run.id, this_process(), dead)
    recorded(there.store, claim, succeed(3, 4))
    assert there.store.clear_removed() is False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One store in a file."""
    made = Place("sqlite", tmp_path / "place")
    yield made
    made.store.close()


def test_an_id_that_is_taken_is_refused(place: Place, tmp_path: Path) -> None:
    """Nothing of the run that is there is touched, and nothing of the other is left."""
    run = failed_run(place)
    file = tmp_path / "run.tar"
    export_run(place.store, place.artifacts, run, file)
    with pytest.raises(RunExists):
        import_run(place.store, place.artifacts, file)
    assert place.store.clear_removed() is False


def test_a_file_that_is_there_is_left_as_it_is(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was there before, or came while the run was written. It is the caller who is to name another one."""
    run = failed_run(place)
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / "run.tar"
    with pytest.raises(BadArguments, match="there is no folder"):
        export_run(place.store, place.artifacts, run, folder / "none" / "run.tar")
    write = transfer._write

    def write_beside_another(*args: Any, **options: Any) -> None:
        write(*args, **options)
        file.write_text("mine")

    monkeypatch.setattr(transfer, "_write", write_beside_another)
    with pytest.raises(BadArguments, match="there already"):
        export_run(place.store, place.artifacts, run, file)
    with pytest.raises(BadArguments, match="there already"):
        export_run(place.store, place.artifacts, run, file)
    assert file.read_text() == "mine"
    assert list(folder.iterdir()) == [file]


def test_what_somebody_works_on_is_not_exported(place: Place, tmp_path: Path) -> None:
    """Its rows would be of several moments."""
    place.store.create_run(new_run(), this_process())
    with pytest.raises(RunOwned):
        export_run(place.store, place.artifacts, place.store.find_run("7f3a"), tmp_path / "run.tar")
    memory = MemoryStore()
    memory.create_run(new_run(), None)
    with pytest.raises(StoreUnavailable, match="memory:"):
        export_run(memory, place.artifacts, memory.find_run("7f3a"), tmp_path / "run.tar")


def test_a_missing_value_is_told_before_there_is_a_file(place: Place, tmp_path: Path) -> None:
    """No archive that would turn out useless where it is brought to, and nothing unfinished beside it."""
    run = failed_run(place)
    Path(place.artifacts.local_path(sha256(BIG).hexdigest(), len(BIG))).unlink()
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ArtifactMissing):
        export_run(place.store, place.artifacts, run, folder / "run.tar")
    assert list(folder.iterdir()) == []


def rewritten(file: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None) -> Path:
    """The archive with each member changed; None leaves one out."""
    result = file.parent / f"changed-{len(list(file.parent.iterdir()))}.tar"
    with tarfile.open(file) as source, tarfile.open(result, "w") as target:
        members = [(member.name, source.extractfile(member).read()) for member in source]  # type: ignore[union-attr]
        for name, data in [*members, *(more or {}).items()]:
            changed_data = change(name, data)
            if changed_data is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed_data)
                target.addfile(info, io.BytesIO(changed_data))
    return result


def test_an_archive_that_is_not_right_leaves_nothing_behind(place: Place, tmp_path: Path) -> None:
    """Cut off, of another format, with strange members, with a wrong artifact: one line each, and no run."""
    run = failed_run(place)
    file = tmp_path / "run.tar"
    export_run(place.store, place.artifacts, run, file)
    place.store.remove_run(run.id, dead, NOW)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(file.read_bytes()[: 30 * 512])
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"noise" * 1000)
    wrong = {
        "cut off": rewritten(file, lambda name, data: None if name == "end.json" else data),
        "can't be imported": cut,
        "noise.tar": noise,
        "not a row": rewritten(file, lambda name, data: b'{"seq": 1}' if name.startswith("rows/step") else data),
        "format 9": rewritten(file, lambda name, data: data.replace(b'"format": 1', b'"format": 9')),
    }
    for said, archive in wrong.items():
        with pytest.raises(StoreUnavailable, match=said) as caught:
            import_run(place.store, place.artifacts, archive)
        assert "\n" not in str(caught.value)
    strange = rewritten(file, lambda name, data: None if name == "end.json" else data, {"../x": b""})
    with pytest.raises(StoreUnavailable, match="does not belong"):
        import_run(place.store, place.artifacts, strange)
    damaged = rewritten(file, lambda name, data: b"z" * len(data) if name.startswith("artifacts/") else data)
    with pytest.raises(ArtifactDamaged):
        import_run(place.store, place.artifacts, damaged)
    while place.store.clear_removed():
        pass
    assert place.store.check()["steps"] == 0
    assert import_run(place.store, place.artifacts, file) == run.id
