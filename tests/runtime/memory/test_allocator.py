"""The allocator against a plain model of its ranges, under random sequences of operations."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dagengine.runtime.allocator import Allocator

PAGE = 4096
LIMIT = 64 * PAGE


class AllocatorMachine(RuleBasedStateMachine):
    """The model: which ranges are live, and which pages the kernel has. It obeys `punched` as the arena does."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
        self.live: dict[int, int] = {}
        self.rising: list[tuple[int, int]] = []
        self.pages: set[int] = set()

    @rule(size=st.integers(1, LIMIT + PAGE))
    def allocate(self, size: int) -> None:
        rounded = self.ranges.rounded(size)
        taken = self.ranges.allocate(size)
        fits = sum(self.live.values()) + self.ranges.rising + rounded <= LIMIT
        assert (taken is not None) == fits
        if taken is None:
            return
        assert taken.size == rounded
        assert taken.offset % PAGE == 0
        for offset, length in taken.punched:
            punched = set(range(offset, offset + length, PAGE))
            assert punched <= self.pages, "pages are given back that are there"
            self.pages -= punched
        self.pages |= set(range(taken.offset, taken.offset + rounded, PAGE))
        self.live[taken.offset] = rounded

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.live)))
        assert self.ranges.release(offset) == self.live.pop(offset)

    @rule(most=st.integers(1, LIMIT))
    def raise_some(self, most: int) -> None:
        some = self.ranges.raise_some(most)
        if some is not None:
            offset, size = some
            assert 0 < size <= most
            self.rising.append(some)
            self.pages |= set(range(offset, offset + size, PAGE))

    @precondition(lambda self: self.rising)
    @rule(ok=st.booleans())
    def raised(self, ok: bool) -> None:
        offset, size = self.rising.pop()
        self.ranges.raised(offset, ok)
        if not ok:
            self.pages -= set(range(offset, offset + size, PAGE))

    @rule(most=st.integers(0, LIMIT))
    def cool(self, most: int) -> None:
        before = self.ranges.warm
        cooled = self.ranges.cool(most)
        assert sum(size for _, size in cooled) == min(before, -(-most // PAGE) * PAGE)
        for offset, size in cooled:
            self.pages -= set(range(offset, offset + size, PAGE))

    @invariant()
    def never_more_pages_than_the_limit(self) -> None:
        assert len(self.pages) * PAGE <= LIMIT
        assert len(self.pages) * PAGE == self.ranges.live + self.ranges.warm + self.ranges.rising

    @invariant()
    def no_two_ranges_overlap(self) -> None:
        taken = sorted([*self.live.items(), *self.rising])
        for (offset, size), (following, _) in itertools.pairwise(taken):
            assert offset + size <= following
        for offset, size in self.live.items():
            assert set(range(offset, offset + size, PAGE)) <= self.pages

    @invariant()
    def free_pieces_are_merged_and_cover_what_is_left(self) -> None:
        pieces = [*self.live.items(), *self.rising]
        for kind in (self.ranges._warm, self.ranges._cold):
            starts = set(kind.sizes)
            assert not starts & {start + size for start, size in kind.sizes.items()}
            assert {start + size: start for start, size in kind.sizes.items()} == kind.starts
            pieces += kind.sizes.items()
        at = 0
        for offset, size in sorted(pieces):
            assert offset == at
            at = offset + size
        assert at == 16 * LIMIT


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), min_size=50, max_size=300))
def test_what_fits_the_limit_finds_a_place_whatever_was_there_before(moves: list[tuple[int, int]]) -> None:
    """Objects of mixed sizes come and go; none is refused while the limit has room for it, however cut up the space is."""
    ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
    live: list[int] = []
    for pages, index in moves:
        while ranges.live + pages * PAGE > LIMIT:
            ranges.release(live.pop(index % len(live)))
        taken = ranges.allocate(pages * PAGE)
        assert taken is not None
        live.append(taken.offset)


def test_a_range_that_was_just_released_is_taken_again_without_new_pages() -> None:
    """The next object of the same size goes where the last one was: its pages are warm."""
    ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
    first = ranges.allocate(7 * PAGE)
    other = ranges.allocate(9 * PAGE)
    assert first is not None
    assert other is not None
    ranges.release(first.offset)
    again = ranges.allocate(7 * PAGE)
    assert again is not None
    assert again.offset == first.offset
    assert ranges.warm == 0


def test_a_larger_object_extends_warm_pages_instead_of_leaving_them() -> None:
    """Half of the pages are there already: only the other half has to be new, and nothing has to be given back."""
    ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
    first = ranges.allocate(32 * PAGE)
    assert first is not None
    ranges.release(first.offset)
    second = ranges.allocate(64 * PAGE)
    assert second is not None
    assert second.punched == []
    assert ranges.warm == 0


def test_those_pages_are_given_back_first_that_were_free_the_longest() -> None:
    """What was released last is the likeliest to be in a cache still."""
    ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
    taken = [ranges.allocate(8 * PAGE) for _ in range(8)]
    offsets = [one.offset for one in taken if one is not None]
    for offset in (offsets[5], offsets[1], offsets[3]):
        ranges.release(offset)
    assert ranges.cool(8 * PAGE) == [(offsets[5], 8 * PAGE)]
    assert ranges.cool(16 * PAGE) == [(offsets[1], 8 * PAGE), (offsets[3], 8 * PAGE)]


def test_when_places_are_cut_up_warm_pages_are_given_up_to_find_one() -> None:
    """In a space hardly larger than the limit, neighbours that are warm and cold by turns are one place together."""
    ranges = Allocator(LIMIT + 4 * PAGE, LIMIT, PAGE)
    taken = ranges.allocate(LIMIT)
    assert taken is not None
    ranges.release(taken.offset)
    ranges.cool(8 * PAGE)
    again = ranges.allocate(LIMIT)
    assert again is not None
    assert ranges.live == LIMIT


def test_releasing_twice_is_a_broken_invariant() -> None:
    """A range that is not live is not released: somebody else may have it by then."""
    ranges = Allocator(16 * LIMIT, LIMIT, PAGE)
    taken = ranges.allocate(1)
    assert taken is not None
    ranges.release(taken.offset)
    with pytest.raises(KeyError):
        ranges.release(taken.offset)


def test_a_hundred_thousand_objects_are_placed_without_looking_at_all_of_them() -> None:
    """The pieces that are looked at do not grow with the number of objects: counted, not timed."""
    counts = []
    for objects in (1_000, 100_000):
        ranges = Allocator(objects * 64 * PAGE, objects * 4 * PAGE, PAGE)
        offsets = [taken.offset for _ in range(objects) if (taken := ranges.allocate(3 * PAGE))]
        for offset in offsets[::2]:
            ranges.release(offset)
        looked = _Counting(ranges._warm.sizes)
        ranges._warm.sizes = looked
        ranges.allocate(5 * PAGE)
        counts.append(looked.count)
    assert counts[0] == counts[1]


class _Counting(OrderedDict[int, int]):
    count = 0

    def __getitem__(self, key: int) -> int:
        self.count += 1
        return super().__getitem__(key)
