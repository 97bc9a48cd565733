"""Rooms, moves, loans, quarantine and conversion: the parts of the node agent, one by one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagengine.model import Failure
from dagengine.runtime.arena import Arena
from dagengine.runtime.conversion import need_of, request_of, resources_of
from dagengine.runtime.core.events import UNIT, Capacity, Device, Event, Restored, Spilled, TaskKind
from dagengine.runtime.moving import Mover
from dagengine.runtime.objects import AWAY, PAGE, Loans, Objects, Place, objects_of, whole_pages
from dagengine.runtime.protocol import (
    ActorWork,
    InlineInput,
    ListInput,
    ObjectInput,
    Placement,
    Replayed,
    Resources,
    TaskSpec,
)
from dagengine.runtime.quarantine import DEATHS, REMEMBERED, Quarantine
from dagengine.runtime.rooms import Room, Rooms
from dagengine.runtime.shared import LentFile
from dagengine.runtime.spilling import SpillSpace

WAIT = 300.0
"""Seconds. Bounds what would otherwise hang; nothing is measured by it."""


class Node:
    """Arena, spill space, rooms and a mover, with an inbox that the test empties."""

    def __init__(self, folder: Path, pages: int) -> None:
        self.arena = Arena(pages * PAGE)
        self.spill = SpillSpace((str(folder),))
        self.objects = Objects(self.arena)
        self.rooms = Rooms(self.arena, self.spill)
        self.told: list[Event] = []
        self._inbox: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self.mover = Mover(
            arena=self.arena,
            spill=self.spill,
            objects=self.objects,
            rooms=self.rooms,
            node=0,
            post=self._post,
            tell=self.told.append,
        )

    def _post(self, errand: Callable[[], None]) -> None:
        with self._changed:
            self._inbox.append(errand)
            self._changed.notify()

    def turn(self) -> None:
        """What the threads have done is told."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._inbox, WAIT)
            inbox, self._inbox = self._inbox, []
        for errand in inbox:
            errand()

    def add(self, number: int, pages: int = 1) -> None:
        offset = self.arena.allocate(pages * PAGE)
        assert offset is not None
        self.arena.view(offset, pages * PAGE)[:] = bytes([number]) * (pages * PAGE)
        self.objects.places[number,] = Place(offset, pages * PAGE, "")

    def bytes_of(self, number: int) -> bytes:
        place = self.objects.places[number,]
        return bytes(self.arena.read(place.offset, place.size, lambda: None))

    def close(self) -> None:
        self.mover.close()
        self.spill.close()
        self.objects.loans.end()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Room for four pages."""
    made = Node(tmp_path / "spill", 4)
    yield made
    made.close()


# ---- moves ----------------------------------------------------------------------------------


def test_spilled_objects_leave_the_arena_and_come_back_as_they_were(node: Node) -> None:
    """Their room is free when the core is told; the copy on disk stays until it is dropped."""
    node.add(1)
    node.add(2)
    node.mover.spill([(1,), (2,)])
    node.turn()
    assert node.told == [Spilled(0, 0, ((1,), (2,)), True, False)]
    assert node.arena.used == 0
    node.mover.restore((2,))
    node.turn()
    assert node.told[1] == Restored(0, 0, (2,), True)
    assert node.bytes_of(2) == bytes([2]) * PAGE
    node.mover.drop([(2,)], spilled=False)
    assert node.objects.places[2,].offset == AWAY
    node.mover.drop([(1,), (2,)], spilled=True)
    assert not node.objects.places
    assert not node.spill.sizes()


def test_an_object_that_is_dropped_while_it_moves_goes_when_the_move_is_done(node: Node) -> None:
    """Nothing is written where a thread still reads; afterwards it is nowhere, and the core is told as always."""
    node.add(1)
    node.mover.spill([(1,)])
    node.mover.drop([(1,)], spilled=True)
    assert node.arena.used == PAGE
    node.turn()
    assert isinstance(node.told[0], Spilled)
    assert node.arena.used == 0
    assert not node.objects.places
    assert not node.spill.sizes()
    node.add(2)
    node.mover.spill([(2,)])
    node.turn()
    node.mover.restore((2,))
    node.mover.drop([(2,)], spilled=True)
    node.turn()
    assert (node.arena.used, node.objects.places, node.spill.sizes()) == (0, {}, {})


def test_an_object_whose_file_is_gone_is_told_as_not_restored(node: Node, tmp_path: Path) -> None:
    """With the reason, for whoever wants to read it."""
    node.add(1)
    node.mover.spill([(1,)])
    node.turn()
    for file in (tmp_path / "spill").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    node.mover.restore((1,))
    node.turn()
    assert node.told[-1] == Restored(0, 0, (1,), False)
    assert node.mover.trouble[1,]
    assert node.arena.used == 0


# ---- rooms ----------------------------------------------------------------------------------


def test_a_granted_room_waits_until_a_thread_has_done_with_what_was_there(node: Node) -> None:
    """The core's account is ahead of the arena while something that it has dropped is still read."""
    given: list[Room] = []
    node.add(1, pages=4)
    room = node.rooms.ask(2 * PAGE, None, given.append)
    node.rooms.granted(room.number)
    late = node.rooms.ask(PAGE, None, given.append)
    node.rooms.granted(late.number)
    assert not given
    node.mover.drop([(1,)], spilled=False)
    assert given == [room, late]
    assert room.offset >= 0
    node.rooms.give_back(room)
    node.rooms.give_back(late)
    assert node.arena.used == 0


def test_a_room_that_was_given_back_before_it_was_granted_takes_nothing(node: Node) -> None:
    """Whoever asked has died: its grant crosses the news of that."""
    given: list[Room] = []
    room = node.rooms.ask(PAGE, None, given.append)
    node.rooms.give_back(room)
    node.rooms.granted(room.number)
    node.rooms.overflow(room.number, refused=True)
    assert not given
    assert node.arena.used == 0


def test_a_refused_room_says_what_is_full(node: Node) -> None:
    """One line with the figures and what to do."""
    given: list[Room] = []
    room = node.rooms.ask(10 * PAGE, None, given.append)
    node.rooms.overflow(room.number, refused=True)
    (trouble,) = [room.trouble for room in given]
    assert f"{10 * PAGE:,} bytes" in trouble
    assert f"{4 * PAGE:,} bytes" in trouble
    assert "\n" not in trouble


# ---- loans ----------------------------------------------------------------------------------


def test_a_loan_ends_when_it_is_closed_and_its_last_view_is_gone() -> None:
    """Once, whatever comes last; or when nobody has it any more."""
    arena = Arena(4 * PAGE)
    loans = Loans(arena)
    ended: list[int] = []
    lent = loans.lend(Place(0, PAGE, "d"), lambda: ended.append(1))
    view = lent.view()
    lent.close()
    lent.close()
    assert not ended
    with pytest.raises(ValueError, match="closed"):
        lent.view()
    with pytest.raises(ValueError, match="closed"):
        lent.fileno()
    del view
    gc.collect()
    assert ended == [1]
    loans.lend(Place(0, PAGE, "d"), lambda: ended.append(2))
    gc.collect()
    assert ended == [1, 2]
    kept = loans.lend(Place(0, PAGE, "d"), lambda: ended.append(3))
    loans.end()
    assert bytes(kept.view()) == bytes(PAGE)
    kept.close()
    gc.collect()
    assert ended == [1, 2], "the runtime is over: nobody is told"
    assert arena.allocate(PAGE) is None, "the arena is closed with the last loan"


def test_a_file_is_lent_like_a_part_of_the_arena(tmp_path: Path) -> None:
    """Until it is closed, also when its name is gone."""
    path = tmp_path / "value"
    path.write_bytes(b"value")
    lent = LentFile.open(str(path), 5, "digest")
    path.unlink()
    assert bytes(lent.view()) == b"value"
    lent.close()
    lent.close()
    with pytest.raises(ValueError, match="closed"):
        lent.fileno()


def test_sizes_in_the_arena_are_whole_pages() -> None:
    """The core's account is of what the arena gives."""
    assert [whole_pages(size) for size in (1, PAGE, PAGE + 1)] == [PAGE, PAGE, 2 * PAGE]


# ---- quarantine -----------------------------------------------------------------------------


def spec(*task_id: int, function: int = 0) -> TaskSpec:
    return TaskSpec(task_id, function, b"")


def death(**facts: object) -> Failure:
    return Failure("lost", "dagengine.errors.WorkerLost", "died", facts=dict(facts))


def test_a_task_that_kills_its_workers_is_quarantined_whatever_its_attempts_are_called() -> None:
    """Attempts differ in the last part of their ids; another function's or task's deaths are others'."""
    quarantine = Quarantine()
    for attempt in range(1, DEATHS):
        assert quarantine.died(spec(1, attempt), death(signal="SIGSEGV")).message == "died"
        quarantine.died(spec(2, attempt), death(exit=3))
        assert quarantine.refuses(spec(1, attempt)) is None
    failure = quarantine.died(spec(1, 9), death(signal="SIGSEGV"))
    assert "quarantined after killing 3 workers with SIGSEGV" in failure.message
    assert quarantine.refuses(spec(1, 10)) == failure
    assert quarantine.refuses(spec(1, 10, function=7)) is None
    assert "exit status 3" in quarantine.died(spec(2, 9), death(exit=3)).message


@pytest.mark.parametrize(
    "facts", [{"signal": "SIGKILL"}, {"signal": "SIGTERM"}, {"signal": "SIGSEGV", "oom": True}, {}]
)
def test_nobody_is_blamed_for_what_others_did(facts: dict[str, object]) -> None:
    """A kill from outside and the kernel's lack of memory are not the task's doing."""
    quarantine = Quarantine()
    for attempt in range(9):
        assert quarantine.died(spec(1, attempt), death(**facts)).message == "died"
    assert not quarantine


def test_an_attempt_that_ends_well_clears_the_task_and_old_deaths_are_forgotten() -> None:
    """Memory of deaths is bounded."""
    quarantine = Quarantine()
    for attempt in range(DEATHS - 1):
        quarantine.died(spec(1, attempt), death(exit=3))
    quarantine.ended(spec(1, 5))
    assert not quarantine
    for number in range(REMEMBERED + 1):
        quarantine.died(spec(number, 1), death(exit=3))
    for attempt in range(DEATHS - 1):
        assert quarantine.died(spec(0, attempt), death(exit=3)).message == "died"


# ---- conversion -----------------------------------------------------------------------------


def test_only_what_asks_for_nothing_special_is_plain() -> None:
    """Plain tasks may wait on a worker behind others: one cpu, no timeout, no stream, no actor."""
    assert request_of(spec(1)).plain
    for changed in (
        {"timeout": 1.0},
        {"resources": Resources(0.5)},
        {"resources": Resources(memory=1)},
        {"resources": Resources(gpus=1.0)},
        {"resources": Resources(custom=(("x", 1.0),))},
        {"placement": Placement(node="n")},
        {"placement": Placement(group=(1,))},
        {"mode": "stream"},
        {"mode": "create", "actor": ActorWork((1,))},
        {"mode": "method", "actor": ActorWork((1,), "m")},
    ):
        made = spec(1)
        for name, value in changed.items():
            setattr(made, name, value)
        assert not request_of(made).plain, changed
    assert request_of(TaskSpec((1,), 0, b"", mode="expand")).kind == TaskKind.CALL


def test_all_objects_that_a_task_reads_are_found_once() -> None:
    """In lists, in the state that an actor begins with, and in the calls that rebuild it."""
    nested = ListInput((ListInput((ObjectInput((1,)),)), InlineInput(b"")))
    found = objects_of((nested, ObjectInput((2,)), ObjectInput((1,))))
    assert sorted(found) == [(1,), (2,)]
    work = ActorWork((9,), state=ObjectInput((3,)), replay=(Replayed("m", b"", (ObjectInput((4,)),)),))
    request = request_of(TaskSpec((1,), 0, b"", mode="create", inputs=(ObjectInput((2,)),), actor=work))
    assert set(request.inputs) == {(2,), (3,), (4,)}


def test_resources_go_to_the_core_and_back_unchanged() -> None:
    """Shares are integers there."""
    need = need_of(Resources(0.5, 10, 0.25, 7, (("b", 2.0), ("a", 0.5))), Placement(node="n", soft=True, bundle=3))
    assert (need.cpus, need.memory, need.gpus, need.gpu_memory) == (UNIT // 2, 10, UNIT // 4, 7)
    assert need.custom == (("a", UNIT // 2), ("b", 2 * UNIT))
    assert (need.node, need.soft, need.bundle) == ("n", True, 3)
    capacity = Capacity("n", 2 * UNIT, 5, 6, (Device(0, 8), Device(1, 9)), (("a", UNIT),), 2)
    assert resources_of(capacity) == Resources(2.0, 5, 2.0, 9, (("a", 1.0),))
