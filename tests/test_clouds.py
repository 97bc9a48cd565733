"""A run whose values lie in a bucket: written, mapped, read, and collected; and buckets that can't be used."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from dagengine import task, workflow
from dagengine.collecting import collect
from dagengine.engine import Engine
from dagengine.errors import ArtifactMissing, RuntimeStopped, StoreUnavailable
from dagengine.retention import Retention
from dagengine.storage import open_artifacts, remote_artifacts
from tests.clouds import CLOUDS, KEY, files_of, fresh_bucket


@task
def make(size: int) -> np.ndarray:
    """A value that is an artifact."""
    return np.arange(size)


@task
def total(numbers: np.ndarray) -> int:
    """Of what was fetched and mapped."""
    return int(numbers.sum())


@workflow
def sums() -> int:
    """Through the bucket."""
    return total(make(100_000))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_values_go_through_a_bucket(cloud: str, tmp_path: Path) -> None:
    """Worker processes read what others wrote; nothing is left to collect, and another machine reads the same."""
    bucket = fresh_bucket(cloud)
    with Engine(tmp_path / "store.db", artifacts=f"{bucket}/values", workers=1, home=tmp_path) as engine:
        run = engine.start(sums)
        assert run.result() == sum(range(100_000))
        [step] = [step for step in run.steps() if step.task == "make"]
        assert engine.artifacts.url == f"{bucket}/values"
        collected = collect(engine.store, engine.artifacts, None, Retention(None, None, None))
        assert (collected.artifacts, collected.kept_artifacts) == (0, 1)
    elsewhere = open_artifacts(f"{bucket}/values", cache=str(tmp_path / "elsewhere"))
    assert step.value_digest is not None
    assert step.value_size is not None
    assert Path(elsewhere.local_path(step.value_digest, step.value_size)).stat().st_size == step.value_size


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_old_and_wanted_by_nobody_goes_from_a_bucket(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the bucket; what is younger, or wanted after all, stays."""
    bucket = fresh_bucket(cloud)
    artifacts = open_artifacts(f"{bucket}/values", cache=str(tmp_path))
    artifacts.put("ab" * 32, 3, b"abc")
    [found] = artifacts.listed("ab")
    assert (found.digest, found.size) == ("ab" * 32, 3)
    soon = time.time() + 3600
    assert artifacts.discard("ab" * 32, soon, lambda: False) == 0  # put now
    monkeypatch.setattr(remote_artifacts, "FRESH_SECONDS", -3600.0)
    assert artifacts.discard("ab" * 32, soon, lambda: True) == 0
    assert artifacts.discard("ab" * 32, soon, lambda: False) == 3
    assert list(artifacts.listed("ab")) == []
    assert files_of(cloud).find(bucket) == []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_bucket_that_is_not_there_is_told_in_one_line(cloud: str, tmp_path: Path) -> None:
    """It names the address, and what is wrong."""
    files_of(cloud)
    artifacts = open_artifacts(f"{cloud}://no-such-bucket/values", cache=str(tmp_path))
    with pytest.raises(StoreUnavailable) as caught:
        artifacts.put("0" * 64, 3, b"abc")
    said = str(caught.value)
    assert f"the artifacts at {cloud}://no-such-bucket/values can't be reached: " in said
    assert re.search("(does not exist|no such bucket)", said)
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_value_in_a_bucket_that_is_not_there_is_not_called_missing(cloud: str, tmp_path: Path) -> None:
    """It is the bucket that is; in one that is empty it is the value."""
    files = files_of(cloud)
    bucket = fresh_bucket(cloud)
    name = bucket.partition("://")[2]
    artifacts = open_artifacts(f"{bucket}/values", cache=str(tmp_path))
    with pytest.raises(ArtifactMissing):
        artifacts.local_path("ab" * 32, 3)
    files.rmdir(name)
    files.invalidate_cache()
    with pytest.raises(
        StoreUnavailable, match=rf"{bucket}/values can't be reached: there is no bucket {name}"
    ) as caught:
        artifacts.local_path("ab" * 32, 3)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_refused_is_told_in_one_line_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's server holds each request against the account's key."""
    bucket = fresh_bucket("abfs")
    name = "AZURE_STORAGE_CONNECTION_STRING"
    wrong = KEY[::-1].lstrip("=") + "=="
    monkeypatch.setenv(name, os.environ[name].replace(KEY, wrong))
    files_of("abfs").clear_instance_cache()
    try:
        artifacts = open_artifacts(f"{bucket}/values", cache=str(tmp_path))
        with pytest.raises(StoreUnavailable, match=r"failed to authenticate the request.*Check the address") as caught:
            artifacts.exists("0" * 64)
    finally:
        files_of("abfs").clear_instance_cache()
    assert "\n" not in str(caught.value)
    assert wrong[:20] not in str(caught.value)


def test_a_key_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    files_of("s3")
    artifacts = open_artifacts("s3://key:secret@no-such-bucket/values", cache=str(tmp_path))
    with pytest.raises(StoreUnavailable) as caught:
        artifacts.put("0" * 64, 3, b"abc")
    assert "secret" not in str(caught.value)


def test_a_spill_space_that_can_t_be_opened_is_named(tmp_path: Path) -> None:
    """The engine was told in time or came to it later: both say why, and nothing of what is in the URL's front."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1, spill=("nonsense://me:hush@b/x",)) as engine:
        run = engine.start(sums)
        with pytest.raises(RuntimeStopped, match=r"nonsense://…@b/x can't be reached: Protocol not known") as caught:
            run.result()
    assert "hush" not in str(caught.value)
