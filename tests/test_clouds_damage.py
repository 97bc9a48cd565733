"""Values in a bucket that are lost or damaged there: named, with who needs them, and made again when somebody says so."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from dagengine import task, workflow
from dagengine.code.packing import Shelf
from dagengine.engine import Engine
from dagengine.errors import RunFailed
from dagengine.forks import Place
from dagengine.recomputing import gaps, recompute
from dagengine.runtime.inline import InlineRuntime
from tests.clouds import CLOUDS, files_of, fresh_bucket

SIZE = 50_000
FLAGS: dict[str, Any] = {}


@task
def block(number: int) -> bytes:
    return bytes([number]) * SIZE


@task(retries=0)
def joined(parts: list[bytes]) -> int:
    if FLAGS.get("fails"):
        raise ValueError("not yet")
    return sum(len(part) for part in parts)


@workflow
def blocks() -> int:
    return joined([block(number) for number in range(3)])


def opened(folder: Path, bucket: str) -> Engine:
    return Engine(folder / "store.db", artifacts=f"{bucket}/values", home=folder, runtime=InlineRuntime())


@pytest.fixture(params=CLOUDS)
def bucket(request: pytest.FixtureRequest) -> str:
    return fresh_bucket(request.param)


def cloud(bucket: str) -> Any:
    return files_of(bucket.partition(":")[0])


@pytest.fixture
def run_id(tmp_path: Path, bucket: str) -> str:
    """A run whose last step has failed."""
    FLAGS["fails"] = True
    with opened(tmp_path, bucket) as engine:
        run = engine.start(blocks)
        run.wait()
    FLAGS.clear()
    return str(run.id)


def object_of(folder: Path, bucket: str, run_id: str, key: str) -> str:
    """Where the step's value lies in the bucket."""
    with opened(folder, bucket) as engine:
        [step] = engine.store.steps(engine.store.find_run(run_id).number, key=key)
    assert step.value_digest is not None
    return f"{bucket}/values/{step.value_digest[:2]}/{step.value_digest[2:]}"


def spoil(place: str, how: str) -> None:
    files = cloud(place)
    if how == "missing":
        files.rm(place)
    else:
        files.pipe(place, b"x" * SIZE)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_value_that_is_gone_from_the_bucket_is_named_and_may_be_brought_back(
    tmp_path: Path, bucket: str, run_id: str, how: str
) -> None:
    """With the step whose it is, the step that needs it, and what to do; what is damaged is not kept here, either."""
    place = object_of(tmp_path, bucket, run_id, "blocks/block[1]")
    kept = cloud(bucket).cat(place)
    spoil(place, how)
    shutil.rmtree(tmp_path / "cache")  # as on another machine
    with opened(tmp_path, bucket) as engine:
        with pytest.raises(RunFailed) as caught:
            engine.resume(run_id).result()
        said = str(caught.value)
        assert f"in step blocks/joined[0]: dagengine.errors.Artifact{how.title()}: the value " in said
        assert f"is {how}" in said
        assert "it is the value of blocks/block[1]" in said
        assert said.endswith(f"dagengine recompute {run_id[:8]}")
        cloud(bucket).pipe(place, kept)
        assert engine.resume(run_id).result() == 3 * SIZE


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_what_is_gone_from_the_bucket_is_made_again(tmp_path: Path, bucket: str, run_id: str, how: str) -> None:
    """Also where this machine still has a copy: others have none. Then another machine finishes the run."""
    spoil(object_of(tmp_path, bucket, run_id, "blocks/block[1]"), how)
    with opened(tmp_path, bucket) as engine:
        record = engine.store.find_run(run_id)
        place = Place(engine.store, engine.artifacts, Shelf(engine.store, tmp_path / "code"))
        [gap] = found = gaps(place, record)
        assert gap.step is not None
        assert (gap.step.key, gap.what, gap.readers) == ("blocks/block[1]", how, ("blocks/joined[0]",))
        assert [made.outcome for made in recompute(place, record, found)] == ["made again"]
        assert gaps(place, record) == []
    shutil.rmtree(tmp_path / "cache")
    with opened(tmp_path, bucket) as engine:
        assert engine.resume(run_id).result() == 3 * SIZE


def test_two_machines_that_write_the_same_values_at_once_leave_each_once(tmp_path: Path, bucket: str) -> None:
    """Each with a store and a cache of its own, on one bucket."""
    results: list[int] = []
    start = threading.Barrier(2)

    def machine(name: str) -> None:
        (tmp_path / name).mkdir()
        with opened(tmp_path / name, bucket) as engine:
            start.wait(300)
            results.append(engine.start(blocks).result())

    threads = [threading.Thread(target=machine, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # a hang ends with the test's time
    assert results == [3 * SIZE, 3 * SIZE]
    files = cloud(bucket)
    found = {"".join(name.split("/")[-2:]): files.cat(name) for name in files.find(f"{bucket}/values")}
    assert len(found) == 3
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in found.items())
