"""Shared memory for what is not an object: nameless, and refused rather than fatal."""

from __future__ import annotations

import errno
import os

import pytest

from dagengine.runtime.shared import anonymous_file, mapped, share
from tests.runtime.left_behind import no_more_descriptors, open_descriptors


def test_segments_are_one_piece_in_shared_memory() -> None:
    """Several, empty ones too, and one that is larger than what others would write at a time."""
    segments: list[bytes | memoryview] = [b"head", b"", memoryview(os.urandom(3_000_000)), b"tail"]
    whole = b"".join(segments)
    descriptor = share(segments)
    assert os.fstat(descriptor).st_size == len(whole)
    with mapped(descriptor, len(whole)) as view:
        assert view == whole
        assert view.readonly
    os.close(descriptor)


def test_a_full_shared_memory_is_an_error_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages are asked for first: no room is an OSError, never a signal."""
    before = open_descriptors()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("posix_fallocate", "pwritev"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                share([b"x"])
    no_more_descriptors(before)


def test_more_shared_memory_than_there_is_is_refused() -> None:
    """Asking the kernel for it would have other processes killed."""
    with pytest.raises(OSError, match="are needed, and"):
        anonymous_file(1 << 62)


def test_without_memfd_an_unlinked_file_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have none: no name leads to the bytes."""
    monkeypatch.delattr(os, "memfd_create")
    descriptor = share([b"abc", b"", b"def"])
    assert os.pread(descriptor, 10, 0) == b"abcdef"
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)
