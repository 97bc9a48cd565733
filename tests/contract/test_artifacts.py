"""What an artifact store promises: bytes under their digest, whole or not at all. Every artifact store runs these."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from dagengine.errors import ArtifactDamaged, ArtifactMissing, InternalError
from dagengine.storage.artifacts import LocalArtifacts, writer_mark
from dagengine.storage.interface import ArtifactStore
from dagengine.storage.remote_artifacts import FsspecArtifacts
from tests.clouds import CLOUDS, files_of, fresh_bucket
from tests.storage.kit import PATIENCE, digest_of


def _in_a_bucket(cloud: str, folder: Path) -> ArtifactStore:
    return FsspecArtifacts(f"{fresh_bucket(cloud)}/artifacts", str(folder / "cache"))


STORES: dict[str, Callable[[Path], ArtifactStore]] = {
    "local": lambda folder: LocalArtifacts(str(folder / "artifacts")),
    "memory": lambda folder: FsspecArtifacts(f"memory://{folder.name}", str(folder / "cache")),
    "folder through fsspec": lambda folder: FsspecArtifacts(f"file://{folder}/remote", str(folder / "cache")),
    **{cloud: partial(_in_a_bucket, cloud) for cloud in CLOUDS},
}

DATA = os.urandom(3 << 20) + b"end"  # more than is copied at a time
DIGEST = digest_of(DATA)


@pytest.fixture(params=STORES)
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    """An empty artifact store."""
    opened = STORES[request.param](tmp_path)
    yield opened
    opened.close()
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def files(artifacts: ArtifactStore, tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """All files that the store keeps: the last parts of their names, and their bytes."""

    def look() -> dict[str, bytes]:
        if artifacts.url.startswith("memory"):
            memory = fsspec.filesystem("memory")
            return {str(path): bytes(memory.cat(path)) for path in memory.find(artifacts.url)}
        if artifacts.url.startswith(CLOUDS):
            bucket = files_of(artifacts.url.partition(":")[0])
            return {str(path): bytes(bucket.cat(path)) for path in bucket.find(artifacts.url)}
        root = Path(artifacts.url.removeprefix("file://"))
        return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return look


def read(artifacts: ArtifactStore, digest: str, size: int) -> bytes:
    return Path(artifacts.local_path(digest, size)).read_bytes()


def test_bytes_come_back(artifacts: ArtifactStore) -> None:
    """What was put is there, in a local file."""
    assert not artifacts.exists(DIGEST)
    artifacts.put(DIGEST, len(DATA), DATA)
    assert artifacts.exists(DIGEST)
    assert read(artifacts, DIGEST, len(DATA)) == DATA
    assert read(artifacts, DIGEST, len(DATA)) == DATA


def test_bytes_are_taken_from_a_descriptor(artifacts: ArtifactStore, tmp_path: Path) -> None:
    """A file is read from its start, wherever its descriptor stands, which it leaves open and in place."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    with source.open("rb") as file:
        file.seek(1000)
        artifacts.put(DIGEST, len(DATA), file.fileno())
        assert file.tell() == 1000
    assert read(artifacts, DIGEST, len(DATA)) == DATA


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd on this system")
def test_bytes_are_taken_from_shared_memory(artifacts: ArtifactStore) -> None:
    """A memfd is a descriptor like any other."""
    descriptor = os.memfd_create("value")
    os.write(descriptor, DATA)
    artifacts.put(DIGEST, len(DATA), descriptor)
    os.close(descriptor)
    assert read(artifacts, DIGEST, len(DATA)) == DATA


def test_bytes_are_taken_from_within_a_larger_file(artifacts: ArtifactStore, tmp_path: Path) -> None:
    """A value lies among others in shared memory."""
    larger = tmp_path / "larger"
    larger.write_bytes(b"before" + DATA + b"after")
    with larger.open("rb") as file:
        artifacts.put(DIGEST, len(DATA), file.fileno(), offset=6)
    assert read(artifacts, DIGEST, len(DATA)) == DATA


def test_nothing_is_an_artifact_too(artifacts: ArtifactStore) -> None:
    """An artifact may be empty."""
    digest = digest_of(b"")
    artifacts.put(digest, 0, b"")
    assert read(artifacts, digest, 0) == b""


def test_the_same_bytes_are_kept_once(artifacts: ArtifactStore, files: Callable[[], dict[str, bytes]]) -> None:
    """Putting the same again changes nothing."""
    for _ in range(3):
        artifacts.put(DIGEST, len(DATA), DATA)
    assert list(files().values()) == [DATA]
    assert read(artifacts, DIGEST, len(DATA)) == DATA


def test_the_same_bytes_may_be_put_at_once(artifacts: ArtifactStore, files: Callable[[], dict[str, bytes]]) -> None:
    """Several threads that put the same bytes do not disturb each other, and leave one file."""
    together = threading.Barrier(4)
    failed: list[BaseException] = []

    def put() -> None:
        try:
            together.wait(PATIENCE)
            artifacts.put(DIGEST, len(DATA), DATA)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert list(files().values()) == [DATA]


def test_what_is_missing_is_named(artifacts: ArtifactStore) -> None:
    """A recorded value whose bytes are gone is known by the beginning of its digest, and by where it was looked for."""
    with pytest.raises(ArtifactMissing) as caught:
        artifacts.local_path(DIGEST, len(DATA))
    assert DIGEST[:12] in str(caught.value)
    assert artifacts.url in str(caught.value)
    assert caught.value.digest == DIGEST


def test_what_has_the_wrong_size_is_damaged(artifacts: ArtifactStore) -> None:
    """Bytes that were cut off are told from bytes that are gone."""
    artifacts.put(DIGEST, len(DATA), DATA)
    with pytest.raises(ArtifactDamaged, match=f"{DIGEST[:12]}.* is damaged: it has 3,145,731 bytes, not 99") as caught:
        artifacts.local_path(DIGEST, 99)
    assert caught.value.digest == DIGEST


def test_damaged_bytes_are_replaced_by_sound_ones(artifacts: ArtifactStore) -> None:
    """What is there with another size is not taken for the artifact when it is put again."""
    artifacts.put(DIGEST, 3, DATA[:3])
    artifacts.put(DIGEST, len(DATA), DATA)
    assert read(artifacts, DIGEST, len(DATA)) == DATA


def test_a_source_of_another_size_leaves_nothing(
    artifacts: ArtifactStore, files: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    """Fewer or more bytes than promised are a bug of ours: nothing is kept under the digest, nor under another name."""
    source = tmp_path / "source"
    source.write_bytes(b"short")
    with source.open("rb") as file, pytest.raises(InternalError, match="was given 5"):
        artifacts.put(DIGEST, len(DATA), file.fileno())
    with pytest.raises(InternalError, match="was given 5"):
        artifacts.put(DIGEST, len(DATA), b"short")
    with pytest.raises(InternalError, match="was given 5"):
        artifacts.put(DIGEST, 3, b"short")
    assert not artifacts.exists(DIGEST)
    assert files() == {}


def test_sweeping_removes_what_dead_writers_left(
    artifacts: ArtifactStore, files: Callable[[], dict[str, bytes]]
) -> None:
    """Temporary files of a process that is gone are removed; those of a live one, and artifacts, are not."""
    artifacts.put(DIGEST, len(DATA), DATA)
    gone = subprocess.run(
        [sys.executable, "-c", "from dagengine.storage.artifacts import writer_mark; print(writer_mark())"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout.strip()
    other_boot = writer_mark().split("-")
    other_boot[1] = "00000000"
    other_host = writer_mark().split("-")
    other_host[0] = "00000000"
    names = {f"{gone}-0", f"{writer_mark()}-77", "-".join(other_boot) + "-0", "-".join(other_host) + "-0", "README"}
    if not artifacts.url.startswith(("file", "/")):
        for name in names:
            fsspec.filesystem(artifacts.url.partition(":")[0]).pipe_file(f"{artifacts.url}/tmp/{name}", b"half")
    else:
        root = Path(artifacts.url.removeprefix("file://"))
        for name in names:
            (root / "tmp" / name).write_bytes(b"half")
    assert artifacts.sweep() == 2
    left = {Path(path).name for path in files()}
    assert left == {DIGEST[2:], f"{writer_mark()}-77", "-".join(other_host) + "-0", "README"}
    assert artifacts.sweep() == 0
