"""The spill space: what comes back is what was written, or an error that names the file; and it is a finite place."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagengine.errors import ObjectLost, ObjectStoreFull
from dagengine.identity import process_mark
from dagengine.runtime import spill_files, spilling
from dagengine.runtime.arena import Arena
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.spill_files import BLOCK, CHUNK, PREFIX
from dagengine.runtime.spilling import SpillFull, SpillSpace, probe
from tests.runtime.left_behind import Left

MiB = 1 << 20

Open = Callable[..., SpillSpace]


@pytest.fixture
def open_space() -> Iterator[Open]:
    """Opens spill spaces, and closes them: neither a descriptor nor a thread is left."""
    opened: list[SpillSpace] = []
    before = Left.now()

    def open_one(*urls: str | Path, limit: int | None = None) -> SpillSpace:
        opened.append(SpillSpace([str(url) for url in urls], limit))
        return opened[-1]

    yield open_one
    for space in opened:
        space.close()
    before.check()


@pytest.fixture(params=["folder", "folder, past the cache", "memory"])
def space(
    request: pytest.FixtureRequest, open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SpillSpace:
    """One in a local folder, written in both ways, and one at a URL."""
    use_cache(monkeypatch, request.param == "folder")
    if request.param != "memory":
        return open_space(tmp_path / "spill")
    return open_space("memory://bucket/spill")


def use_cache(monkeypatch: pytest.MonkeyPatch, use: bool) -> None:
    """Large files are written through the page cache, or past it, whatever this machine would prefer."""
    monkeypatch.setattr(spill_files, "IDLE", 1.1 if use else 0.0)
    monkeypatch.setattr(spill_files, "SLOW", 0.0)


@pytest.fixture(params=["through the cache", "past the cache"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs for both ways in which large files are written."""
    use_cache(monkeypatch, request.param == "through the cache")


def write(space: SpillSpace, **objects: bytes) -> None:
    space.write([(number(name), memoryview(data)) for name, data in objects.items()])


def read(space: SpillSpace, name: str, size: int) -> bytes:
    target = bytearray(size)
    space.read_into(number(name), memoryview(target))
    return bytes(target)


def number(name: str) -> ObjectId:
    return tuple(name.encode())


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- what is written comes back ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 70_000, MiB, MiB + 1, CHUNK, 2 * CHUNK + 5000])
def test_an_object_of_any_size_comes_back(space: SpillSpace, size: int) -> None:
    """Below and above every size at which something is done in another way."""
    data = os.urandom(size)
    write(space, one=data)
    assert read(space, "one", size) == data


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    cache=st.booleans(),
    sizes=st.lists(st.one_of(st.integers(0, 3 * BLOCK), st.integers(60_000, 3 * MiB)), min_size=1, max_size=20),
)
def test_objects_that_share_a_file_do_not_disturb_each_other(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: bool, sizes: list[int]
) -> None:
    """Any mixture of sizes, some from the arena as they lie there and some from anywhere."""
    use_cache(monkeypatch, cache)
    space = open_space(tmp_path)
    arena = Arena(64 * MiB)
    try:
        items: list[tuple[ObjectId, memoryview]] = []
        for index, size in enumerate(sizes):
            data = os.urandom(min(size, 1000)) * (size // 1000 + 1)
            if index % 3:
                offset = arena.allocate(size)
                assert offset is not None
                arena.view(offset, size)[:] = data[:size]
                view = arena.read(offset, size, lambda: None) if index % 3 == 1 else arena.view(offset, size)
            else:
                view = memoryview(data)[:size]
            items.append(((index,), view))
        space.write(items)
        assert len(files_in(tmp_path)) == 1
        for object_id, view in reversed(items):
            offset = arena.allocate(len(view))
            assert offset is not None
            target = arena.view(offset, len(view))
            space.read_into(object_id, target)
            assert target == view
        items.clear()
    finally:
        space.close()
        arena.close()


def test_small_objects_are_fused_into_one_file(open_space: Open, tmp_path: Path) -> None:
    """Two thousand of 10 KB: one file, from which each comes back."""
    space = open_space(tmp_path)
    objects = [((n,), memoryview(n.to_bytes(2, "big") * 5000)) for n in range(2000)]
    space.write(objects)
    assert len(files_in(tmp_path)) == 1
    for n in (0, 777, 1999):
        target = bytearray(10_000)
        space.read_into((n,), memoryview(target))
        assert target == n.to_bytes(2, "big") * 5000


def test_an_object_that_is_written_again_is_the_newer_one(space: SpillSpace) -> None:
    """Spilled, restored, made anew under its id: the first file is not read any more."""
    write(space, one=b"old")
    write(space, one=b"newer")
    assert read(space, "one", 5) == b"newer"
    assert space.sizes() == {number("one"): 5}


def test_a_filesystem_that_has_no_way_past_the_cache_is_used_through_it(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such filesystems refuse when the file is opened: then it is done the other way, then and later."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    use_cache(monkeypatch, False)
    space = open_space(tmp_path)
    for name in ("one", "two"):
        data = os.urandom(3 * MiB + 7)
        write(space, **{name: data})
        assert read(space, name, len(data)) == data


def test_the_target_has_to_have_the_objects_size(space: SpillSpace) -> None:
    """Anything else is a mistake of ours, not a damaged file."""
    write(space, one=b"four")
    with pytest.raises(ValueError, match="4 bytes, not 5"):
        read(space, "one", 5)


def test_nothing_is_written_for_nothing(open_space: Open, tmp_path: Path) -> None:
    """No objects, no file; and a space that was never used leaves no trace of it."""
    space = open_space(tmp_path / "never")
    space.write([])
    space.forget([(1,)])
    assert space.used == 0
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_slow_is_passed_by_for_some_files(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is throttled by its disk then; after a while it gets another chance."""
    use_cache(monkeypatch, True)
    monkeypatch.setattr(spill_files, "SLOW", 1e30)
    flags: list[int] = []
    real = os.open

    def note(path: str, flag: int, mode: int = 0o777) -> int:
        flags.append(flag & os.O_DIRECT)
        return real(path, flag, mode)

    monkeypatch.setattr(os, "open", note)
    space = open_space(tmp_path)
    for _ in range(2 * spill_files.TRIED_AGAIN):
        write(space, one=bytes(CHUNK))
    past = [bool(flag) for flag in flags]
    assert (
        past == ([False] + [True] * spill_files.TRIED_AGAIN + [False] + [True] * spill_files.TRIED_AGAIN)[: len(past)]
    )
    assert past.count(False) == 2


# ---- damage -----------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "short":
        os.truncate(path, 100)
    else:
        with path.open("r+b") as file:
            file.seek(50)
            file.write(b"?")


@pytest.mark.parametrize("size", [5000, 3 * MiB])
@pytest.mark.parametrize("how", ["gone", "short", "changed"])
@pytest.mark.usefixtures("either_way")
def test_damaged_bytes_are_not_handed_over(open_space: Open, tmp_path: Path, how: str, size: int) -> None:
    """Whatever happened to the file: one error, which names it."""
    space = open_space(tmp_path)
    write(space, one=bytes(size))
    [path] = files_in(tmp_path)
    damage(path, how)
    with pytest.raises(ObjectLost, match=str(path)) as caught:
        read(space, "one", size)
    assert "\n" not in str(caught.value)


def test_damage_to_one_object_is_not_damage_to_its_neighbours(open_space: Open, tmp_path: Path) -> None:
    """Each has a checksum of its own."""
    space = open_space(tmp_path)
    write(space, one=bytes(100), two=bytes(100))
    [path] = files_in(tmp_path)
    damage(path, "changed")
    assert read(space, "two", 100) == bytes(100)
    with pytest.raises(ObjectLost):
        read(space, "one", 100)


def test_damaged_bytes_at_a_url_are_not_handed_over(open_space: Open) -> None:
    """The checksum does not depend on the disk."""
    space = open_space("memory://bucket/damage")
    write(space, one=b"right")
    files = fsspec.filesystem("memory")
    [path] = files.find("/bucket/damage")
    files.pipe_file(path, b"wrong")
    with pytest.raises(ObjectLost, match="other bytes"):
        read(space, "one", 5)
    files.rm_file(path)
    with pytest.raises(ObjectLost, match="memory://bucket/damage"):
        read(space, "one", 5)


def test_an_object_that_was_never_spilled_is_lost(space: SpillSpace) -> None:
    """As one whose file is gone: whoever asks has to make it again."""
    with pytest.raises(ObjectLost, match="not in the spill space"):
        read(space, "one", 1)


# ---- full -------------------------------------------------------------------------------------


def test_a_limit_is_kept_and_told(open_space: Open, tmp_path: Path) -> None:
    """What does not fit is refused whole, with the figures; what was there stays."""
    space = open_space(tmp_path, limit=3 * BLOCK)
    write(space, one=b"1", two=b"2")
    with pytest.raises(SpillFull, match=r"8,192 of 12,288 are in use") as caught:
        write(space, three=b"3", four=b"4")
    assert isinstance(caught.value, ObjectStoreFull)
    assert space.sizes() == {number("one"): 1, number("two"): 1}
    assert space.used == 2 * BLOCK
    assert not space.has_room(2 * BLOCK)
    assert space.has_room(BLOCK)
    write(space, three=b"3")


def test_room_that_was_just_forgotten_is_waited_for(open_space: Open, tmp_path: Path) -> None:
    """Files go in the background; who needs their room is not refused meanwhile."""
    space = open_space(tmp_path, limit=2 * BLOCK)
    for _ in range(50):
        write(space, one=b"1", two=b"2")
        space.forget([number("one"), number("two")])
    assert len(files_in(tmp_path)) <= 1


def test_a_disk_that_others_need_is_full_before_it_is(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the disk is left free: the store may lie there, and has to say what happened."""
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(spill_files, "RESERVE_SHARE", 2.0)
    monkeypatch.setattr(spill_files, "RESERVE_MOST", disk.f_blocks * disk.f_frsize * 2)
    space = open_space(tmp_path)
    with pytest.raises(SpillFull, match="the disk is full"):
        write(space, one=b"1")
    assert not space.has_room(1)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("size", [100, 3 * MiB])
@pytest.mark.usefixtures("either_way")
def test_a_disk_that_turns_out_to_be_full_leaves_nothing_half_written(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """ENOSPC in the middle: SpillFull, no file, no account of it; and the next write goes through."""
    real = os.pwritev
    writes: list[int] = []

    def full(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        writes.append(offset)
        if len(writes) <= 2:  # The space tries twice: something may have been on its way out.
            real(descriptor, buffers, offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full)
    space = open_space(tmp_path)
    with pytest.raises(SpillFull, match="the disk is full"):
        write(space, one=bytes(size))
    assert files_in(tmp_path) == []
    assert space.used == 0
    write(space, one=bytes(size))
    assert read(space, "one", size) == bytes(size)


def test_several_folders_are_used_in_turn_and_a_full_one_is_passed_over(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two disks share the work; when one is full the other takes all."""
    first, second = tmp_path / "first", tmp_path / "second"
    space = open_space(first, f"file://{second}")
    for name in "abcd":
        write(space, **{name: b"x"})
    assert len(files_in(first)) == len(files_in(second)) == 2
    real = spill_files.LocalFolder.has_room
    monkeypatch.setattr(
        spill_files.LocalFolder,
        "has_room",
        lambda self, size: self.where != str(first) and real(self, size),
    )
    for name in "efgh":
        write(space, **{name: b"x"})
    assert len(files_in(first)) == 2
    assert len(files_in(second)) == 6


def test_a_place_that_can_not_be_written_is_an_error_of_the_system(open_space: Open, tmp_path: Path) -> None:
    """A file where the folder should be: not full, but wrong; and the account is as before."""
    (tmp_path / "file").touch()
    space = open_space(tmp_path / "file" / "folder")
    with pytest.raises(NotADirectoryError):
        write(space, one=b"1")
    assert space.used == 0


def test_a_url_that_can_not_be_reached_is_told_without_its_secrets(
    open_space: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, an OSError like those of disks."""
    space = open_space("memory://user:secret@bucket/x")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("connection\nrefused")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", refuse)
    with pytest.raises(OSError, match="can't be reached: connection refused") as caught:
        write(space, one=b"1")
    assert "secret" not in str(caught.value)


# ---- forgetting -------------------------------------------------------------------------------


def test_a_file_goes_with_the_last_of_its_objects(space: SpillSpace) -> None:
    """Not before; and then its room is free."""
    write(space, one=b"1", two=b"2")
    used = space.used
    space.forget([number("one"), (404,)])
    space.settle()
    assert space.used == used
    assert read(space, "two", 1) == b"2"
    space.forget([number("two")])
    space.settle()
    assert space.used == 0
    assert space.sizes() == {}


def test_a_file_of_which_little_is_wanted_is_rewritten(space: SpillSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room of the forgotten ones is free again, and what is left reads as before."""
    monkeypatch.setattr(spilling, "SLACK", BLOCK)
    contents = {f"o{n}": os.urandom(3 * BLOCK + n) for n in range(9)}
    write(space, **contents)
    whole = space.used
    space.forget([number(f"o{n}") for n in (0, 1, 3, 4, 6, 7)])
    space.settle()
    assert space.used < whole / 2
    for name in ("o2", "o5", "o8"):
        assert read(space, name, len(contents[name])) == contents[name]
    space.forget([number(name) for name in ("o2", "o5", "o8")])
    space.settle()
    assert space.used == 0


def test_sparse_files_are_left_alone_until_their_room_is_needed(open_space: Open, tmp_path: Path) -> None:
    """In most programs the rest of such a file is forgotten soon, too. But it never makes a space full."""
    space = open_space(tmp_path, limit=10 * BLOCK)
    write(space, **{f"o{n}": bytes([n]) * BLOCK for n in range(8)})
    before = files_in(tmp_path)
    space.forget([number(f"o{n}") for n in range(7)])
    space.settle()
    assert files_in(tmp_path) == before
    write(space, large=bytes(9 * BLOCK))
    assert space.used == 10 * BLOCK
    assert read(space, "o7", BLOCK) == bytes([7]) * BLOCK
    assert read(space, "large", 9 * BLOCK) == bytes(9 * BLOCK)


def test_a_damaged_file_is_not_made_whole_by_rewriting_it(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum is that of the first writing; a file that can't be copied stays, and says so when it is read."""
    monkeypatch.setattr(spilling, "SLACK", BLOCK)
    space = open_space(tmp_path)
    write(space, one=bytes(3 * BLOCK), two=bytes(9 * BLOCK))
    [path] = files_in(tmp_path)
    damage(path, "changed")
    space.forget([number("two")])
    space.settle()
    assert files_in(tmp_path) != [path]
    with pytest.raises(ObjectLost, match="other bytes"):
        read(space, "one", 3 * BLOCK)
    write(space, three=bytes(3 * BLOCK), four=bytes(9 * BLOCK))
    damage(files_in(tmp_path)[-1], "short")
    space.forget([number("four")])
    space.settle()
    with pytest.raises(ObjectLost, match="too short"):
        read(space, "three", 3 * BLOCK)
    space.forget([number("one"), number("three")])
    space.settle()
    assert space.used == 0
    assert files_in(tmp_path) == []


def test_threads_that_write_read_and_forget_get_what_they_wrote(
    open_space: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that spill, one that restores, and files that are rewritten under their hands."""
    monkeypatch.setattr(spilling, "SLACK", BLOCK)
    space = open_space(tmp_path)
    wrong: list[object] = []

    def work(mark: int) -> None:
        try:
            for step in range(40):
                names = [(mark, step, n) for n in range(6)]
                contents = [bytes([mark, step, n]) * 5000 for n in range(6)]
                space.write([(name, memoryview(data)) for name, data in zip(names, contents, strict=True)])
                space.forget(names[:4])
                for name, data in zip(names[4:], contents[4:], strict=True):
                    target = bytearray(len(data))
                    space.read_into(name, memoryview(target))
                    if target != data:
                        wrong.append(name)
                space.forget(names[4:])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    space.settle()
    assert space.used == 0
    assert files_in(tmp_path) == []


# ---- files that workers write -----------------------------------------------------------------


def test_a_file_that_a_worker_wrote_is_an_object_like_others(space: SpillSpace) -> None:
    """One object larger than the arena goes to a local disk, even if the spill space is elsewhere."""
    data = os.urandom(2 * MiB + 123)
    path = Path(space.overflow_path())
    assert not path.exists()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_bytes(data)
    space.adopt((7,), str(path), len(data), zlib.crc32(data))
    target = bytearray(len(data))
    space.read_into((7,), memoryview(target))
    assert target == data
    assert space.used >= len(data)
    space.forget([(7,)])
    space.settle()
    assert not path.exists()
    assert space.used == 0


def test_a_file_that_a_worker_left_half_written_is_not_an_object(open_space: Open, tmp_path: Path) -> None:
    """It died: the file is discarded, whether it was begun or not. And bytes other than it announced are not read."""
    space = open_space(tmp_path)
    begun, never, short = (Path(space.overflow_path()) for _ in range(3))
    begun.write_bytes(b"half")
    space.discard(str(begun))
    space.discard(str(never))
    space.discard("of somebody else")
    space.settle()
    assert files_in(tmp_path) == []
    short.write_bytes(b"half")
    space.adopt((1,), str(short), 8, zlib.crc32(b"half"))
    with pytest.raises(ObjectLost, match="too short"):
        space.read_into((1,), memoryview(bytearray(8)))


# ---- whose files, and what is left ------------------------------------------------------------


def test_folders_and_files_are_private_and_named_after_the_process(open_space: Open, tmp_path: Path) -> None:
    """Whatever the umask, nobody else may read what was spilled."""
    before = os.umask(0)
    try:
        write(open_space(tmp_path), one=b"1")
    finally:
        os.umask(before)
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith(PREFIX + process_mark())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_closing_removes_everything_and_twice_is_harmless(space: SpillSpace, tmp_path: Path) -> None:
    """Objects that nobody forgot, files that nobody adopted."""
    write(space, one=b"1", two=bytes(3 * MiB))
    Path(space.overflow_path()).touch()
    space.close()
    space.close()
    assert files_in(tmp_path) == []
    assert fsspec.filesystem("memory").find("/bucket/spill") == []


HOLDER = """
import os, sys
from dagengine.runtime.spilling import SpillSpace
space = SpillSpace([sys.argv[1]])
space.write([((1,), memoryview(bytes(3 << 20))), ((2,), memoryview(b"small"))])
open(space.overflow_path(), "wb").write(b"begun")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has spilled to the folder, and lives."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(
    holder: subprocess.Popen[str], open_space: Open, tmp_path: Path
) -> None:
    """kill -9 leaves files; the next process that starts removes them, and only them."""
    space = open_space(tmp_path)
    write(space, one=b"mine")
    (tmp_path / "users-own").touch()
    (tmp_path / f"{PREFIX}what-is-this").mkdir()
    assert space.sweep() == 0
    assert len(files_in(tmp_path)) == 4
    holder.kill()
    holder.wait()
    assert space.sweep() == 1
    assert [path.name for path in files_in(tmp_path)] == ["0", "users-own"]
    assert read(space, "one", 4) == b"mine"


def test_what_a_dead_process_left_at_a_url_is_swept(open_space: Open) -> None:
    """The name says whose it was, there as well."""
    files = fsspec.filesystem("memory")
    host, boot, _, start = process_mark().split("-")
    dead = f"/bucket/swept/{PREFIX}{host}-{boot}-4194305-{start}-0"
    other_host = f"/bucket/swept/{PREFIX}00000000-{boot}-4194305-{start}-0"
    for folder in (dead, other_host):
        files.pipe_file(f"{folder}/0", b"left")
    space = open_space("memory://bucket/swept")
    write(space, one=b"mine")
    assert space.sweep() == 1
    assert files.find(dead) == []
    assert files.find(other_host) != []
    assert read(space, "one", 4) == b"mine"
    assert open_space("memory://bucket/nothing-there").sweep() == 0
    files.rm("/bucket/swept", recursive=True)


def test_a_spill_space_needs_a_place() -> None:
    """An empty list is a mistake in a setting, told before anything starts."""
    with pytest.raises(ValueError, match="needs a folder or URL"):
        SpillSpace([])


# ---- places that can't be written to ----------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "dagengine.runtime"]


def test_a_folder_that_cannot_be_written_is_warned_of_once_and_the_other_is_used(
    open_space: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not passed over in silence; and nothing is lost by it."""
    (tmp_path / "file").touch()
    bad, good = tmp_path / "file" / "spill", tmp_path / "good"
    space = open_space(bad, good)
    for name in ("one", "two", "three"):
        write(space, **{name: name.encode()})
    assert read(space, "three", 5) == b"three"
    assert Path(space.overflow_path()).is_relative_to(good)
    assert Path(space.overflow_path()).is_relative_to(good)
    (said,) = warnings(caplog)
    assert said == (
        f"the spill space {bad} can't be written to: Not a directory. Check its mode and owner, or name another."
        f" Until then values that find no room in memory go to {good}"
    )
    assert list(space.trouble.failing) == [str(bad)]
    (tmp_path / "file").unlink()
    for name in ("four", "five"):
        write(space, **{name: name.encode()})
    assert space.trouble.text == ""
    assert len(warnings(caplog)) == 1


def test_with_no_place_that_can_be_written_the_reason_is_what_is_raised(
    open_space: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for a worker that asks for a file."""
    (tmp_path / "file").touch()
    space = open_space(tmp_path / "file" / "spill")
    with pytest.raises(OSError, match="Not a directory"):
        write(space, one=b"1")
    with pytest.raises(OSError, match=r"file/spill can't be written to: Not a directory\. Check its mode"):
        space.overflow_path()
    (said,) = warnings(caplog)
    assert said.endswith("Until then values that find no room in memory have nowhere to go")
    assert space.used == 0


def test_a_bucket_without_rights_is_warned_of_with_the_folder_that_is_used_instead(
    open_space: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's result goes to a local folder then: whoever gave the bucket has to hear of it."""

    def refused(*args: object, **options: object) -> None:
        raise PermissionError("Forbidden")

    space = open_space("memory://bucket/no-rights")
    with monkeypatch.context() as patch:
        patch.setattr(fsspec.get_filesystem_class("memory"), "_open", refused)
        for _ in range(2):
            with pytest.raises(OSError, match="Forbidden"):
                write(space, one=b"1")
    (said,) = warnings(caplog)
    assert said.startswith(
        "the spill space memory://bucket/no-rights can't be reached: Forbidden. Check the address and"
    )
    assert said.endswith(f"go to {tempfile.gettempdir()}")
    assert space.trouble.text.startswith("the spill space memory://bucket/no-rights")
    write(space, one=b"1")
    assert space.trouble.text == ""


def test_a_full_disk_is_no_such_trouble(
    open_space: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said with what fails for it, with figures."""
    monkeypatch.setattr(spill_files.LocalFolder, "has_room", lambda *_: False)
    space = open_space(tmp_path)
    with pytest.raises(SpillFull):
        write(space, one=b"1")
    assert (warnings(caplog), space.trouble.text) == ([], "")


def test_a_place_can_be_tried_beforehand(tmp_path: Path) -> None:
    """Nothing is left there; a folder that is not there yet is not made."""
    assert probe(str(tmp_path)) == str(tmp_path)
    assert "not there yet" in probe(str(tmp_path / "later" / "spill"))
    assert list(tmp_path.iterdir()) == []
    assert probe("memory://bucket/tried") == "memory://bucket/tried"
    assert fsspec.filesystem("memory").find("/bucket/tried") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="can't be made"):
        probe(str(tmp_path / "file" / "spill"))
    with pytest.raises(OSError, match="can't be written to"):
        probe(str(tmp_path / "file"))
