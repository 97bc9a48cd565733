"""What the memory watch reads of real processes, and of machines and control groups as the kernel describes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from dagengine.runtime import pressure
from dagengine.runtime.arena import Arena
from dagengine.runtime.memory import InUse
from dagengine.runtime.pressure import Reading, Watch

MiB = 1 << 20

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that do what the given code says, wait until it is done, and are ended with the test."""
    with ExitStack() as stack:

        def start_one(code: str, descriptor: int = -1) -> int:
            script = f"import os, sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    pass_fds=[descriptor] if descriptor >= 0 else [],
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process.pid

        yield start_one


def read(limit: int, *pids: int) -> Reading:
    return Watch(limit).read(pids)


# ---- processes --------------------------------------------------------------------------------


def test_memory_that_a_process_has_of_its_own_counts(start: Start) -> None:
    """Two processes, one of which has 64 MiB more."""
    small, large = start(""), start("data = bytearray(os.urandom(1 << 20)) * 64")
    reading = read(1, small, large)
    assert 60 * MiB < reading.processes[large] - reading.processes[small] < 70 * MiB
    assert reading.used == sum(reading.processes.values())
    assert reading.exact


def test_the_arenas_pages_do_not_count_for_who_reads_them(start: Start) -> None:
    """A task that maps 64 MiB of the arena, and touches all of it, has no more of its own than one that does not."""
    arena = Arena(64 * MiB)
    try:
        offset = arena.allocate(64 * MiB)
        assert offset is not None
        arena.view(offset, 64 * MiB)
        touch = f"import mmap\nm = mmap.mmap({arena.descriptor}, {64 * MiB}, prot=mmap.PROT_READ)\nm[::4096]"
        plain, reader = start(""), start(touch, arena.descriptor)
        for limit in (1, 1 << 50):  # exact, and roughly
            reading = read(limit, plain, reader)
            assert reading.processes[reader] - reading.processes[plain] < 16 * MiB
    finally:
        arena.close()


def test_pages_that_a_fork_shares_with_its_parent_count_in_part(start: Start) -> None:
    """Workers are forked from a process that has much loaded already: together they have that once, not each."""
    code = """
data = bytearray(os.urandom(1 << 20)) * 64
for _ in range(3):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
"""
    parent = start(code)
    rough, exact = read(1 << 50, parent), read(1, parent)
    assert not rough.exact
    assert rough.used > 4 * 64 * MiB
    assert 64 * MiB < exact.used < 2 * 64 * MiB


def test_children_count_for_the_process_that_started_them(start: Start) -> None:
    """A task that has its memory in a child process is not overlooked, also if not the main thread started that."""
    code = """
import subprocess, threading
hog = "data = bytearray(os.urandom(1 << 20)) * 64; print(flush=True); sys.stdin.read()"
up, forever = threading.Event(), threading.Event()
def begin():
    child = subprocess.Popen([sys.executable, "-c", "import os, sys\\n" + hog], stdin=0, stdout=subprocess.PIPE)
    child.stdout.readline()
    up.set()
    forever.wait()
threading.Thread(target=begin, daemon=True).start()
up.wait()
"""
    parent = start(code)
    assert read(1, parent).processes[parent] > 64 * MiB


def test_a_process_that_is_gone_is_left_out(start: Start) -> None:
    """It may end between the list and the look; that is no error."""
    living = start("")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for limit in (1, 1 << 50):
        assert set(read(limit, living, gone.pid).processes) == {living}


def test_pages_are_walked_only_when_it_could_matter(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact figure takes the kernel a walk over all pages: below the threshold nobody asks for it."""
    asked: list[int] = []

    def proportional(pid: int) -> int:
        asked.append(pid)
        return 10 * MiB

    monkeypatch.setattr(pressure, "_proportional", proportional)
    pid = start("")
    watch = Watch(1 << 50)
    assert not watch.read([pid]).exact
    assert asked == []
    assert Watch(MiB).read([pid]).processes == {pid: 10 * MiB}
    assert asked == [pid]


def test_where_the_kernel_does_not_tell_shares_the_rough_figure_counts(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that may not be looked into that way still counts with all that it has."""
    pid = start("")
    real = open

    def refuse(path: str, mode: str = "r") -> object:
        if path.endswith("smaps_rollup"):
            raise PermissionError
        return real(path, mode)

    monkeypatch.setattr("builtins.open", refuse)
    assert read(1, pid).processes[pid] == pressure._anonymous(pid)


# ---- thresholds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "high", "critical"), [(799, False, False), (800, True, False), (949, True, False), (950, True, True)]
)
def test_a_node_is_high_at_four_fifths_and_critical_just_before_the_end(used: int, high: bool, critical: bool) -> None:
    """What the thresholds say is part of the interface: the core acts on them."""
    reading = Reading(used, 1000, {})
    assert (reading.high, reading.critical) == (high, critical)


def test_the_nearer_the_end_the_sooner_it_is_looked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never so late that memory could have run out in between; never so often that looking is work."""
    pauses = []
    for left in (0, 1 << 29, 1 << 31, 1 << 40):
        limit = 1 << 44
        monkeypatch.setattr(
            pressure, "memory_in_use", lambda left=left, limit=limit: [InUse(int(limit * 0.95) - left, limit)]
        )
        watch = Watch()
        watch.read([])
        pauses.append(watch.pause())
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.05
    assert pauses[1] == pytest.approx(0.125, rel=0.01)
    assert pauses[-1] == 1.0
    assert Watch().pause() == 0.05


def test_looking_takes_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of many gigabytes take long to walk over, just when memory is short."""
    clock = iter([10.0, 10.03])
    monkeypatch.setattr(pressure, "perf_counter", lambda: next(clock))
    watch = Watch(0)
    watch.read([])
    assert watch.pause() == pytest.approx(0.3)


def test_of_a_machine_that_is_high_pages_are_walked_only_at_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is known without; who has most is asked when somebody has to be ended."""
    pid = start("")
    exact = []
    for used in (94, 95):
        monkeypatch.setattr(pressure, "memory_in_use", lambda used=used: [InUse(used, 100)])
        exact.append(Watch().read([pid]).exact)
    assert exact == [False, True]


def test_without_a_limit_of_its_own_the_tightest_of_machine_and_groups_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is nearest to its end, whatever its size."""
    monkeypatch.setattr(pressure, "memory_in_use", lambda: [InUse(10 << 30, 100 << 30), InUse(9 << 30, 10 << 30)])
    reading = Watch().read([])
    assert (reading.used, reading.limit) == (9 << 30, 10 << 30)
    assert reading.high
