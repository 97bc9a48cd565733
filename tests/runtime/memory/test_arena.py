"""The arena as the controller and its workers use it: places, pages, views, and what is left after a kill."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dagengine.runtime import arena as arena_module
from dagengine.runtime.arena import Arena
from dagengine.runtime.worker_arena import WorkerArena
from dagengine.values import decode, encode
from tests.runtime.left_behind import WAIT, Left, pidfd, wait_gone

MiB = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    """Of 8 MiB; at the end neither a descriptor nor a thread is left."""
    before = Left.now()
    made = Arena(8 * MiB)
    yield made
    made.close()
    before.check()


@pytest.fixture
def worker(arena: Arena) -> Iterator[WorkerArena]:
    """The arena as a worker has it."""
    made = WorkerArena(arena.descriptor, arena.size)
    yield made
    made.close()


def pages_of(arena: Arena) -> int:
    """Bytes that the kernel has in memory for the file."""
    return os.fstat(arena.descriptor).st_blocks * 512


def put(arena: Arena, data: bytes) -> int:
    offset = arena.allocate(len(data))
    assert offset is not None
    arena.view(offset, len(data))[:] = data
    return offset


# ---- places and pages -------------------------------------------------------------------------


def test_an_arena_is_nameless_shared_memory(arena: Arena) -> None:
    """No name leads to it, so nothing can be left: neither in /dev/shm nor in the temporary folder."""
    assert arena.kind == "memfd"
    assert Path(f"/proc/self/fd/{arena.descriptor}").readlink().name.endswith("(deleted)")
    assert not os.get_inheritable(arena.descriptor)


def test_what_the_controller_puts_a_worker_reads_and_the_other_way_round(arena: Arena, worker: WorkerArena) -> None:
    """Both sides see the same bytes, at offsets that are all they tell each other."""
    offset = put(arena, b"from the controller")
    assert bytes(worker.read(offset, 19, lambda: None)) == b"from the controller"
    other = arena.allocate(11)
    assert other is not None
    worker.write(other, [b"from ", memoryview(b"worker")])
    assert bytes(arena.read(other, 11, lambda: None)) == b"from worker"


def test_an_arena_never_has_more_pages_than_its_limit(arena: Arena, worker: WorkerArena) -> None:
    """Objects of many sizes come and go, written by both sides; the kernel never holds more than the limit for them."""
    live: list[int] = []
    for step in range(400):
        size = 4096 * (1 + step * 37 % 400)
        while (offset := arena.allocate(size)) is None:
            arena.release(live.pop(step % len(live)))
        live.append(offset)
        if step % 2:
            arena.view(offset, size)[:] = bytes(size)
        else:
            worker.write(offset, [bytes(size)])
        assert pages_of(arena) <= arena.limit
        assert arena.used + arena.warm <= arena.limit


def test_an_arena_refuses_what_does_not_fit_and_takes_it_when_it_does(arena: Arena) -> None:
    """The limit is exact: all of it can be had, and not a page more."""
    first = arena.allocate(5 * MiB)
    assert first is not None
    assert arena.allocate(3 * MiB + 1) is None
    assert arena.allocate(3 * MiB) is not None
    assert arena.used == arena.limit
    assert arena.allocate(1) is None
    arena.release(first)
    assert arena.allocate(5 * MiB) is not None


def test_pages_of_a_released_object_are_kept_for_the_next(arena: Arena) -> None:
    """The same place is given out again, and the kernel was not asked for anything."""
    arena.cool()  # from here on nothing is made warm ahead
    offset = put(arena, bytes(4 * MiB))
    arena.release(offset)
    assert arena.warm >= 4 * MiB
    before = pages_of(arena)
    assert arena.allocate(4 * MiB) == offset
    assert pages_of(arena) == before


def test_cooling_gives_the_kernel_all_that_is_not_in_use(arena: Arena) -> None:
    """When others need memory, free pages go; live ones stay as they are."""
    kept = put(arena, b"kept")
    arena.release(put(arena, bytes(4 * MiB)))
    assert arena.cool() >= 4 * MiB
    assert arena.warm == 0
    assert pages_of(arena) <= 4096
    assert bytes(arena.read(kept, 4, lambda: None)) == b"kept"
    assert bytes(arena.read(put(arena, b"new"), 3, lambda: None)) == b"new"


def test_pages_are_made_warm_ahead_of_use_and_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread gets the first pages by itself; then it has nothing to do, and the first object finds them."""
    monkeypatch.setattr(arena_module, "_BEFORE_FIRST", 0.0)
    arena = Arena(8 * MiB)
    try:
        with arena._changed:
            assert arena._changed.wait_for(lambda: arena._ranges.warm == 8 * MiB, WAIT)
        assert pages_of(arena) == 8 * MiB
        assert arena.allocate(8 * MiB) is not None
        assert pages_of(arena) == 8 * MiB
    finally:
        arena.close()


def test_the_whole_limit_can_be_had_while_pages_are_made_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that the limit allows is not refused because the thread holds a step of pages at that moment."""
    monkeypatch.setattr(arena_module, "_BEFORE_FIRST", 0.0)
    for _ in range(20):
        arena = Arena(8 * MiB)
        try:
            assert arena.allocate(8 * MiB) is not None
        finally:
            arena.close()


def test_where_there_is_no_memory_to_make_warm_places_are_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that works ahead gives up quietly; who writes meets the lack as an OSError of their own."""
    refused = threading.Event()

    def refuse(self: Arena, offset: int, size: int) -> None:
        refused.set()
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(arena_module, "_BEFORE_FIRST", 0.0)
    monkeypatch.setattr(Arena, "_get_pages", refuse)
    arena = Arena(8 * MiB)
    try:
        assert refused.wait(WAIT)
        offset = arena.allocate(8 * MiB)
        assert offset is not None
        with pytest.raises(OSError, match="no memory"):
            arena.view(offset, 1)
    finally:
        arena.close()


def test_several_threads_share_an_arena(arena: Arena) -> None:
    """Places that are held at the same time do not overlap, whoever asks."""
    wrong: list[int] = []

    def work(mark: int) -> None:
        for step in range(200):
            size = 4096 * (1 + (step + mark) % 50)
            offset = arena.allocate(size)
            if offset is None:
                continue
            view = arena.view(offset, size)
            view[:] = bytes([mark]) * size
            if bytes(view) != bytes([mark]) * size:
                wrong.append(mark)
            arena.release(offset)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert arena.used == 0


def test_without_memfd_an_arena_is_a_nameless_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works the same, and no name is left in the folder while it lives."""
    monkeypatch.delattr(os, "memfd_create")
    arena = Arena(8 * MiB, str(tmp_path))
    try:
        assert arena.kind == "file"
        assert list(tmp_path.iterdir()) == []
        offset = put(arena, b"x" * 5 * MiB)
        assert bytes(arena.read(offset, 3, lambda: None)) == b"xxx"
        arena.release(offset)
        arena.cool()
        assert pages_of(arena) == 0
    finally:
        arena.close()


def test_where_pages_can_not_be_given_back_the_space_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some sandboxes have no holes in files: then all of the space may come to have pages, so there is less of it."""
    monkeypatch.setattr(arena_module, "punch", lambda *_: False)
    arena = Arena(8 * MiB)
    try:
        assert arena.size == 16 * MiB
        for size in (8 * MiB, 5 * MiB, 8 * MiB, 3 * MiB):
            arena.release(put(arena, bytes(size)))
            assert pages_of(arena) <= 16 * MiB
    finally:
        arena.close()


def test_a_limit_above_all_memory_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared memory can't hold it, a disk may."""
    monkeypatch.setattr(arena_module, "shared_memory_room", lambda: 7 * MiB)
    arena = Arena(8 * MiB, str(tmp_path))
    arena.close()
    assert arena.kind == "file"


def test_closing_twice_is_harmless_and_views_stay_readable(worker: WorkerArena, arena: Arena) -> None:
    """A value that was read outlives the runtime that it came from."""
    view = arena.read(put(arena, b"still here"), 10, lambda: None)
    written = arena.view(arena.allocate(10) or 0, 10)
    worker.close()
    arena.close()
    arena.close()
    assert bytes(view) == b"still here"
    assert arena.allocate(1) is None
    with pytest.raises(ValueError, match="closed"):
        arena.view(0, 1)
    for side in (arena, worker):
        with pytest.raises(ValueError, match="closed"):
            side.read(0, 1, lambda: pytest.fail("released"))
        with pytest.raises((ValueError, OSError)):
            side.write(0, [b"x"])
    written.release()


def test_an_arena_that_is_closed_by_a_finaliser_inside_of_its_own_work_does_not_wait_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collection may run anywhere, and find the last view there: the thread that it interrupts cleans up."""
    before = Left.now()
    arena = Arena(8 * MiB)
    populate = Arena._populate

    def interrupted(self: Arena, offset: int, size: int) -> None:
        self.close()
        populate(self, offset, size)

    monkeypatch.setattr(Arena, "_populate", interrupted)
    arena.view(0, 10).release()
    assert arena.descriptor == -1
    arena._thread.join()
    before.check()


# ---- reading ----------------------------------------------------------------------------------


def test_a_view_is_released_once_when_the_last_thing_made_from_it_is_gone(arena: Arena, worker: WorkerArena) -> None:
    """Slices, NumPy arrays and Arrow buffers keep the object where it is, long after the first view is gone."""
    offset = put(arena, bytes(range(200)))
    released: list[str] = []
    view = worker.read(offset, 200, lambda: released.append("once"))
    array = np.frombuffer(view, dtype=np.uint8)[10:20]
    buffer = pa.py_buffer(view[20:30])
    part = view[30:40]
    del view
    gc.collect()
    assert released == []
    del array
    del buffer
    assert released == []
    assert bytes(part) == bytes(range(30, 40))
    del part
    assert released == ["once"]


def test_every_read_has_an_owner_of_its_own(arena: Arena, worker: WorkerArena) -> None:
    """The same object, read twice, is let go twice: each reader holds it for itself."""
    offset = put(arena, bytes(100))
    released: list[int] = []
    first = worker.read(offset, 100, lambda: released.append(1))
    second = worker.read(offset, 100, lambda: released.append(2))
    del second
    assert released == [2]
    del first
    assert released == [2, 1]


def test_what_was_read_can_not_be_written_to(arena: Arena, worker: WorkerArena) -> None:
    """Neither through the view nor through an array on it, whatever flag somebody sets."""
    offset = put(arena, encode(np.arange(100_000)).to_bytes())
    size = len(encode(np.arange(100_000)).to_bytes())
    view = worker.read(offset, size, lambda: None)
    array = decode(view)
    assert view.readonly
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1
    assert not pa.py_buffer(view).is_mutable


def test_a_decoded_array_lies_in_the_arena_itself(arena: Arena, worker: WorkerArena) -> None:
    """No copy: what changes in the arena changes in the array. And when it is gone, the object is let go."""
    data = encode(np.zeros(100_000)).to_bytes()
    offset = put(arena, data)
    released: list[int] = []
    array = decode(worker.read(offset, len(data), lambda: released.append(1)))
    arena.view(offset, len(data))[-8:] = np.float64(7).tobytes()
    assert array[-1] == 7
    assert released == []
    del array
    assert released == [1]


def test_an_empty_view_is_released_as_any_other(worker: WorkerArena) -> None:
    """Even of nothing the last one is told."""
    released: list[int] = []
    assert bytes(worker.read(0, 0, lambda: released.append(1))) == b""
    assert released == [1]


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1), (0, 128 * MiB + 1), (128 * MiB, 1)])
def test_a_view_outside_of_the_arena_is_refused(worker: WorkerArena, offset: int, size: int) -> None:
    """Before it can be a crash; and what was never lent is not released."""
    with pytest.raises(ValueError, match="do not lie in the arena"):
        worker.read(offset, size, lambda: pytest.fail("released"))


def test_a_forked_child_reads_the_views_that_it_inherits(arena: Arena) -> None:
    """User code forks (multiprocessing): its values stay good on both sides, and each side lets go for itself."""
    released: list[int] = []
    view = arena.read(put(arena, b"inherited"), 9, lambda: released.append(os.getpid()))
    child = os.fork()
    if child == 0:
        same = bytes(view) == b"inherited"
        del view
        os._exit(0 if same and released == [os.getpid()] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(view) == b"inherited"
    assert released == []


# ---- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [WorkerArena, Arena])
@pytest.mark.parametrize("hashed", [False, True])
def test_segments_are_written_one_after_the_other_and_hashed_on_the_way(
    arena: Arena, worker: WorkerArena, hashed: bool, writes: type
) -> None:
    """Thousands of small ones, empty ones and one larger than what is written at a time; from both sides."""
    segments = [os.urandom(n % 7) for n in range(3000)] + [os.urandom(3 * MiB), b"", os.urandom(70_000), os.urandom(5)]
    whole = b"".join(segments)
    before, offset, after = arena.allocate(4096), arena.allocate(len(whole)), arena.allocate(4096)
    assert before is not None
    assert offset is not None
    assert after is not None
    sha = hashlib.sha256() if hashed else None
    writer = worker if writes is WorkerArena else arena
    writer.write(offset, [memoryview(part) if n % 2 else part for n, part in enumerate(segments)], sha)
    assert bytes(worker.read(offset, len(whole), lambda: None)) == whole
    for neighbour in (before, after):
        assert bytes(worker.read(neighbour, 4096, lambda: None)) == bytes(4096)
    if sha is not None:
        assert sha.digest() == hashlib.sha256(whole).digest()


def test_the_arena_may_be_closed_under_somebody_who_writes_to_it() -> None:
    """A put that is under way when the runtime ends: it goes on into memory that nobody reads, or is refused."""

    def write(arena: Arena, offset: int, began: threading.Event) -> None:
        began.set()
        with contextlib.suppress(ValueError):
            arena.write(offset, [bytes(16 * MiB)])

    for _ in range(20):
        arena = Arena(32 * MiB)
        offset = arena.allocate(16 * MiB)
        began = threading.Event()
        thread = threading.Thread(target=write, args=(arena, offset, began))
        thread.start()
        began.wait()
        arena.close()
        thread.join()


def test_a_write_for_which_there_is_no_room_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """A full filesystem behind the arena: an OSError to whoever writes, in a worker and in the controller."""
    limited = tmp_path / "limited"
    with limited.open("wb") as file:
        file.truncate(MiB)
        file.flush()
        script = f"""
import errno, os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from dagengine.runtime.worker_arena import WorkerArena
descriptor = os.open({str(limited)!r}, os.O_RDWR)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    WorkerArena(descriptor, {MiB}).write(0, [bytes(100_000)])
except OSError as error:
    print(errno.errorcode[error.errno])
"""
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT,
            env=_environment(),
        )
    assert done.stdout.strip() == "EFBIG", done.stderr


# ---- kill -9 ----------------------------------------------------------------------------------

HOLDER = """
import os, sys
from dagengine.runtime.arena import Arena
arena = Arena(32 << 20)
offset = arena.allocate(16 << 20)
arena.view(offset, 16 << 20)[:] = bytes(16 << 20)
child = os.fork()  # a worker that inherits the descriptor
if child == 0:
    os.read(int(sys.argv[1]), 1)
    os._exit(0)
print(child, flush=True)
os.read(int(sys.argv[1]), 1)
"""


def test_nothing_is_left_of_an_arena_whose_processes_were_killed() -> None:
    """After kill -9 of the controller and the worker no file is left: while they lived, they had none in /dev/shm."""
    ours, theirs = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ours)], stdout=subprocess.PIPE, pass_fds=[ours], env=_environment()
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        living = pidfd(child)
        held = [os.readlink(f"/proc/{holder.pid}/fd/{name}") for name in os.listdir(f"/proc/{holder.pid}/fd")]  # noqa: PTH115, PTH208
        assert sum("dagengine" in name for name in held) >= 1
        # What else is in /dev/shm, and comes and goes meanwhile, is that of other tests.
        mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in (holder.pid, child)]
        assert all("/dev/shm" not in name for name in (*held, *mapped))
        holder.kill()
        os.kill(child, 9)
    wait_gone(living)
    os.close(ours)
    os.close(theirs)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def test_offsets_are_whole_pages(arena: Arena) -> None:
    """What reads past the page cache, or maps an object by itself, needs that."""
    offsets = [arena.allocate(1), arena.allocate(5000), arena.allocate(3)]
    assert [offset % mmap.PAGESIZE for offset in offsets if offset is not None] == [0, 0, 0]
    assert arena.used == 4 * mmap.PAGESIZE
