"""A run whose values lie in a bucket: written, mapped, read, and collected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dagengine import task, workflow
from dagengine.collecting import collect
from dagengine.engine import Engine
from dagengine.errors import StoreUnavailable
from dagengine.retention import Retention
from dagengine.storage import open_artifacts
from tests.s3 import fresh_bucket, shared


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


def test_values_go_through_a_bucket(tmp_path: Path) -> None:
    """Worker processes read what others wrote; nothing is left to collect, and another machine reads the same."""
    bucket = fresh_bucket()
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


def test_a_bucket_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    """It names the address, without the secrets in it."""
    shared()
    artifacts = open_artifacts("s3://key:secret@no-such-bucket/values", cache=str(tmp_path))
    with pytest.raises(StoreUnavailable) as caught:
        artifacts.put("0" * 64, 3, b"abc")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
