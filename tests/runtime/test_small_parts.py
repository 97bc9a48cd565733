"""Permits, shared memory, memory limits, names of deaths: the parts that the runtime is put together from."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest

from dagengine.runtime import memory
from dagengine.runtime.deaths import lost_failure, signal_name
from dagengine.runtime.memory import available_memory, memory_capacity, oom_kills
from dagengine.runtime.output import new_output, save_output
from dagengine.runtime.permits import Permits
from dagengine.runtime.shared import SharedFile, anonymous_file, mapped, share, share_value
from dagengine.values import decode, encode

# ---- permits --------------------------------------------------------------------------------


def test_permits_are_counted_across_descriptors() -> None:
    """Both sides hold the same counter; taking from an empty one does not wait."""
    permits = Permits()
    other = Permits(os.dup(permits.descriptor))
    assert not other.take()
    permits.post(3)
    assert other.take()
    assert permits.take_up_to(5) == 2
    assert not other.take()
    other.close()
    permits.close()


def test_each_permit_is_taken_once_however_many_take() -> None:
    """Two threads that take at once share what there is."""
    permits = Permits()
    permits.post(20_000)
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.append(permits.take_up_to(20_000))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 20_000
    permits.close()


# ---- shared memory --------------------------------------------------------------------------


def test_a_value_in_shared_memory_is_what_was_encoded() -> None:
    """Several segments, larger than a chunk, under the digest of all of them."""
    value = {"bytes": bytearray(b"x" * 3_000_000), "text": "y"}
    encoded = encode(value)
    made = share_value(encoded)
    assert made.size == encoded.size
    assert made.digest == encoded.digest() == hashlib.sha256(os.pread(made.fileno(), made.size, 0)).hexdigest()
    with mapped(made.fileno(), made.size) as view:
        assert decode(bytes(view), digest=made.digest) == value
    made.close()


def test_a_full_shared_memory_is_an_error_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages are asked for first: no room is an OSError, never a signal."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("posix_fallocate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                share([b"x"])
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


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


def test_a_shared_file_that_is_dropped_gives_its_memory_back() -> None:
    """Nobody has to close what nobody has seen."""
    descriptor = anonymous_file(10)
    SharedFile(descriptor, 10, "")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# ---- output ---------------------------------------------------------------------------------


def test_output_is_appended_whoever_writes_and_emptied_when_saved(tmp_path: Path) -> None:
    """Descriptors that share the file write at its end, also after it was emptied."""
    output = new_output(str(tmp_path))
    other = os.dup(output)
    for text in (b"one ", b"two "):
        os.write(output, text)
        os.write(other, b"too ")
        save_output(output, str(tmp_path / f"{text.decode().strip()}.log"))
    save_output(output, str(tmp_path / "nothing.log"))
    os.close(output)
    os.close(other)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "one.log": "one too ",
        "two.log": "two too ",
    }


# ---- memory ---------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_memory_is_the_least_of_what_the_machine_and_its_groups_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of version 1 and 2 are read, "max" and unreadable ones are no limit."""
    monkeypatch.setattr(memory, "_machine_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_groups", list)
    assert available_memory() == 1000
    assert memory_capacity() == 800
    second = write(tmp_path / "v2", memory__max="max\n", memory__events="low 0\noom 3\noom_kill 2\n")
    first = write(
        tmp_path / "v1", memory__limit_in_bytes="600\n", memory__oom_control="oom_kill_disable 0\noom_kill 5\n"
    )
    monkeypatch.setattr(memory, "_groups", lambda: [second, tmp_path / "nothing", first])
    assert available_memory() == 600
    assert oom_kills() == 5
    monkeypatch.setattr(memory, "_groups", lambda: [tmp_path / "nothing"])
    assert oom_kills() is None


def test_this_machines_memory_is_read() -> None:
    """Some, and no more than there is."""
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ---- deaths ---------------------------------------------------------------------------------


def test_deaths_are_told_in_one_line_with_facts() -> None:
    """Facts for programs, a line for people."""
    cases = {
        (3 << 8, False): ({"exit": 3}, "status 3"),
        (70 << 8, False): ({"exit": 70}, "its log says why"),
        (signal.SIGSEGV, False): ({"signal": "SIGSEGV"}, "fault in native code"),
        (signal.SIGUSR1, False): ({"signal": "SIGUSR1"}, "killed by SIGUSR1 while"),
        (signal.SIGKILL, False): ({"signal": "SIGKILL"}, "lack of memory"),
        (signal.SIGKILL, True): ({"signal": "SIGKILL", "oom": True}, "memory="),
    }
    for (status, oom), (facts, text) in cases.items():
        failure = lost_failure(status, oom)
        assert failure.facts == facts
        assert text in failure.message
        assert "\n" not in failure.message
        assert failure.kind == "lost"
    assert signal_name(99) == "signal 99"
