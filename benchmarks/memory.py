"""The object memory's own speed: the arena beside memcpy, the spill space beside the bare disk. No engine here.

python -m benchmarks.memory                   objects of 1 GiB in all
python -m benchmarks.memory --mib 200 --json  one line of JSON, for programs

Each figure is the best of several, taken by turns with what it is compared with, because a machine's speed changes by
the minute. New memory is measured once: it is new only once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import machine
from dagengine.runtime.arena import Arena
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.spilling import SpillSpace
from dagengine.runtime.worker_arena import WorkerArena

MiB = 1 << 20
ROUNDS = 4
PART = 8 * MiB
MAPPED = 100 * MiB
SMALL, SMALL_BYTES = 2_000, 10_240

Figures = dict[str, float]


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def by_turns(*actions: Callable[[], object]) -> list[float]:
    """The best seconds of each."""
    taken = [[seconds(action) for action in actions] for _ in range(ROUNDS)]
    return [min(column) for column in zip(*taken, strict=True)]


def rate(size: int, taken: float) -> float:
    """GB/s."""
    return round(size / taken / 1e9, 3)


def put(arena: Arena, source: memoryview) -> int:
    offset = arena.allocate(len(source))
    assert offset is not None
    arena.write(offset, [source])
    return offset


def measure_puts(arena: Arena, size: int) -> Figures:
    """From the controller's process, and from a worker's; beside copying to memory of one's own."""
    source, target = memoryview(bytearray(os.urandom(MiB) * (size // MiB))), memoryview(bytearray(size))
    worker = WorkerArena(arena.descriptor, arena.size)
    new = seconds(lambda: arena.release(put(arena, source)))

    def copy() -> None:
        target[:] = source

    def write() -> None:
        offset = arena.allocate(size)
        assert offset is not None
        worker.write(offset, [source])
        arena.release(offset)

    copied, warm, written = by_turns(copy, lambda: arena.release(put(arena, source)), write)
    worker.close()
    return {
        "memcpy_gb_s": rate(size, copied),
        "put_new_gb_s": rate(size, new),
        "put_warm_gb_s": rate(size, warm),
        "put_warm_share": round(copied / warm, 3),
        "worker_warm_gb_s": rate(size, written),
        "worker_warm_share": round(copied / written, 3),
    }


def measure_reads(arena: Arena) -> Figures:
    """To map an object of 100 MB, and to touch each of its pages: for the first time in a process, and again."""
    size = min(MAPPED, arena.limit // 2)
    offset = put(arena, memoryview(bytes(size)))
    worker = WorkerArena(arena.descriptor, arena.size)

    def read() -> memoryview:
        return worker.read(offset, size, lambda: None)

    first, touched = seconds(read), seconds(lambda: bytes(read()[:: mmap.PAGESIZE]))
    again, touched_again = by_turns(lambda: [read() for _ in range(1000)], lambda: bytes(read()[:: mmap.PAGESIZE]))
    worker.close()
    arena.release(offset)
    return {
        "map_first_ms": round(first * 1e3, 3),
        "map_again_us": round(again * 1e3, 2),
        "touch_first_ms": round(touched * 1e3, 2),
        "touch_again_ms": round(touched_again * 1e3, 2),
    }


@contextlib.contextmanager
def bare(path: Path, flags: int) -> Iterator[int]:
    """Past the page cache, as the spill space does it."""
    descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def measure_spilling(arena: Arena, size: int, folder: Path) -> Figures:
    """Objects of 64 MiB, to one file and back; beside the bare disk with the same memory."""
    each = min(64 * MiB, size)
    offsets = [arena.allocate(each) for _ in range(size // each)]
    views = [arena.view(offset, each) for offset in offsets if offset is not None]
    for view in views:
        view[:] = os.urandom(MiB) * (each // MiB)
    space = SpillSpace([str(folder)])
    objects: list[tuple[ObjectId, memoryview]] = [((number,), view) for number, view in enumerate(views)]
    raw = folder / "raw"

    def write_bare() -> None:
        raw.unlink(missing_ok=True)
        with bare(raw, os.O_CREAT | os.O_WRONLY) as descriptor:
            for number, view in enumerate(views):
                for at in range(0, each, PART):
                    os.pwrite(descriptor, view[at : at + PART], number * each + at)

    def read_bare() -> None:
        with bare(raw, os.O_RDONLY) as descriptor:
            for number, view in enumerate(views):
                for at in range(0, each, PART):
                    os.preadv(descriptor, [view[at : at + PART]], number * each + at)

    def restore() -> None:
        for object_id, view in objects:
            space.read_into(object_id, view)

    bare_write, spilled = by_turns(write_bare, lambda: space.write(objects))
    bare_read, restored = by_turns(read_bare, restore)
    space.close()
    raw.unlink()
    for offset in offsets:
        if offset is not None:
            arena.release(offset)
    total = each * len(views)
    return {
        "disk_write_gb_s": rate(total, bare_write),
        "spill_gb_s": rate(total, spilled),
        "spill_share": round(bare_write / spilled, 3),
        "disk_read_gb_s": rate(total, bare_read),
        "restore_gb_s": rate(total, restored),
        "restore_share": round(bare_read / restored, 3),
    }


def measure_small(arena: Arena, folder: Path) -> Figures:
    """2,000 objects of 10 KB: all to one file, and each to a file of its own."""
    offsets = [arena.allocate(SMALL_BYTES) for _ in range(SMALL)]
    objects: list[tuple[ObjectId, memoryview]] = [
        ((number,), arena.view(offset, SMALL_BYTES)) for number, offset in enumerate(offsets) if offset is not None
    ]
    space = SpillSpace([str(folder)])

    def one_by_one() -> None:
        for one in objects:
            space.write([one])

    def restore() -> None:
        for object_id, view in objects:
            space.read_into(object_id, view)

    single, fused, restored = by_turns(one_by_one, lambda: space.write(objects), restore)
    space.close()
    return {
        "small_fused_ms": round(fused * 1e3, 1),
        "small_single_ms": round(single * 1e3, 1),
        "small_fused_times": round(single / fused, 1),
        "small_restore_ms": round(restored * 1e3, 1),
    }


def measure(mib: int) -> Figures:
    size = mib * MiB
    arena = Arena(max(size, 128 * MiB))
    folder = Path(tempfile.mkdtemp(prefix="dagengine-bench-"))
    try:
        figures = {**measure_puts(arena, size), **measure_reads(arena), **measure_spilling(arena, size, folder)}
        return {**figures, **measure_small(arena, folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        arena.close()


_LINES = (
    "copy to memory of one's own            {memcpy_gb_s} GB/s",
    "put, into new memory                   {put_new_gb_s} GB/s",
    "put, into warm memory                  {put_warm_gb_s} GB/s, {put_warm_share} of a copy's speed",
    "a worker's write, into warm memory     {worker_warm_gb_s} GB/s, {worker_warm_share} of a copy's speed",
    "map 100 MB: first, and again           {map_first_ms} ms, {map_again_us} µs",
    "touch its pages: first, and again      {touch_first_ms} ms, {touch_again_ms} ms",
    "bare disk, writing                     {disk_write_gb_s} GB/s",
    "spill                                  {spill_gb_s} GB/s, {spill_share} of the disk's speed",
    "bare disk, reading                     {disk_read_gb_s} GB/s",
    "restore                                {restore_gb_s} GB/s, {restore_share} of the disk's speed",
    "2,000 objects of 10 KB: one file       {small_fused_ms} ms",
    "   one file each                       {small_single_ms} ms, {small_fused_times} times as long",
    "   restored from one file              {small_restore_ms} ms",
)


def lines(figures: Figures) -> list[str]:
    """For people: what, how much, and how it compares."""
    text = {name: f"{value:g}" for name, value in figures.items()}
    return [line.format(**text) for line in _LINES]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="MiB that are put, spilled and restored (1024)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.mib)))
        return
    print(machine.sentence(machine.facts()), flush=True)
    print("\n".join(lines(measure(options.mib))))


if __name__ == "__main__":
    main()
