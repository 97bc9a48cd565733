"""Where in the arena the next object goes: pure arithmetic on ranges of an address space, in bytes.

    live    handed out
    warm    free, and its pages are kept: writing to them again takes a fraction of what getting new ones takes
    rising  free, and about to be warm: somebody is getting its pages
    cold    free, without pages

Invariants: ranges do not overlap and are whole pages; live + warm + rising never exceeds `limit`; two neighbours are
never both warm, or both cold, because they are one piece then. The address space is several times the limit, so that
what fits is not refused for lack of a place in one piece. No operation looks at all pieces, except for the last resort
of `allocate`.

Imports nothing of ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

_TRIES: Final = 8
"""Pieces of nearly the right size that are looked at for one that fits exactly, and large ones for one to extend."""


class Taken(NamedTuple):
    """A new live range. `punched`: ranges whose pages have to be given back before anybody writes to this one."""

    offset: int
    size: int
    punched: list[tuple[int, int]]


class Allocator:
    def __init__(self, size: int, limit: int, page: int) -> None:
        """`size` of the address space, rounded down to pages, as `limit` is."""
        self.page = page
        self.limit = limit // page * page
        self.live = 0
        self.rising = 0
        self._live: dict[int, int] = {}
        self._rising: dict[int, int] = {}
        self._warm = _Pieces(page)
        self._cold = _Pieces(page)
        self._cold.add(0, size // page * page)

    @property
    def warm(self) -> int:
        return self._warm.total

    def rounded(self, size: int) -> int:
        """What a range for `size` bytes takes: at least a page."""
        return max(1, -(-size // self.page)) * self.page

    def allocate(self, size: int) -> Taken | None:
        """A range for `size` bytes; None if it would exceed the limit (rising ranges count), or there is no place."""
        size = self.rounded(size)
        if self.live + self.rising + size > self.limit:
            return None
        punched: list[tuple[int, int]] = []
        offset = self._take_warm(size)
        if offset is None:
            offset = self._stretch_warm(size)
        if offset is None:
            offset = self._cold.find(size)
            if offset is None:
                punched += self.cool(self.warm)
                offset = self._cold.find(size, thorough=True)
            if offset is None:
                return None
            self._cold.cut(offset, offset, size)
        self._live[offset] = size
        self.live += size
        punched += self.cool(self.live + self.rising + self.warm - self.limit)
        return Taken(offset, size, punched)

    def release(self, offset: int) -> int:
        """The live range is free again, and warm. Its size. Raises KeyError if it is not live."""
        size = self._live.pop(offset)
        self.live -= size
        self._warm.add(offset, size)
        return size

    def cool(self, most: int) -> list[tuple[int, int]]:
        """Make warm ranges of at least `most` bytes cold (or all), those first that have been free the longest."""
        cooled: list[tuple[int, int]] = []
        while most > 0 and self.warm:
            offset, size = self._warm.oldest()
            part = min(size, -(-most // self.page) * self.page)
            self._warm.cut(offset, offset, part)
            self._cold.add(offset, part)
            cooled.append((offset, part))
            most -= part
        return cooled

    def raise_some(self, most: int) -> tuple[int, int] | None:
        """A cold range of up to `most` bytes whose pages may be got now; tell `raised`. None if the limit forbids it."""
        size = min(most, self.limit - self.live - self.warm - self.rising) // self.page * self.page
        if size <= 0 or (offset := self._cold.find(size)) is None:
            return None
        self._cold.cut(offset, offset, size)
        self._rising[offset] = size
        self.rising += size
        return offset, size

    def raised(self, offset: int, ok: bool) -> None:
        """The pages of the rising range are there; or, if not `ok`, could not be had."""
        size = self._rising.pop(offset)
        self.rising -= size
        (self._warm if ok else self._cold).add(offset, size)

    def _take_warm(self, size: int) -> int | None:
        offset = self._warm.find(size)
        if offset is not None:
            self._warm.cut(offset, offset, size)
        return offset

    def _stretch_warm(self, size: int) -> int | None:
        """A range of a large warm piece and the cold next to it: not all of its pages are new, then."""
        for start in self._warm.largest():
            own = self._warm.sizes[start]
            end, more = start + own, size - own
            if more <= 0:  # Fits, and was missed by the search: pieces of one class are not all looked at.
                self._warm.cut(start, start, size)
                return start
            if self._cold.sizes.get(end, 0) >= more:
                self._warm.cut(start, start, own)
                self._cold.cut(end, end, more)
                return start
            before = self._cold.starts.get(start)
            if before is not None and start - before >= more:
                self._warm.cut(start, start, own)
                self._cold.cut(before, start - more, more)
                return start - more
        return None


class _Pieces:
    """Free ranges of one kind, merged with their neighbours of that kind, and found by size.

    Classes of sizes: eight for each power of two, so that the members of one differ by an eighth at the most.
    """

    def __init__(self, page: int) -> None:
        self.total = 0
        self.sizes: OrderedDict[int, int] = OrderedDict()  # start -> size, the oldest first
        self.starts: dict[int, int] = {}  # end -> start
        self._page = page
        self._classes: dict[int, OrderedDict[int, None]] = {}
        self._filled = 0  # bit n: class n has members

    def add(self, start: int, size: int) -> None:
        if not size:
            return
        end = start + size
        before = self.starts.get(start)
        if before is not None:
            self._remove(before)
            start = before
        after = self.sizes.get(end)
        if after is not None:
            self._remove(end)
            end += after
        self._insert(start, end - start)

    def cut(self, start: int, offset: int, size: int) -> None:
        """Take [offset, offset + size) out of the piece at `start`."""
        whole = self._remove(start)
        if offset > start:
            self._insert(start, offset - start)
        rest = start + whole - offset - size
        if rest:
            self._insert(offset + size, rest)

    def find(self, size: int, thorough: bool = False) -> int | None:
        """The start of a piece that has `size` bytes and little more. It may miss one that is hardly larger, unless
        `thorough`."""
        own = _class_of(size // self._page)
        members = self._classes.get(own)
        if members:
            best, fit = None, 0
            for count, start in enumerate(reversed(members)):
                if not thorough and count == _TRIES:
                    break
                found = self.sizes[start]
                if found >= size and (best is None or found < fit):
                    best, fit = start, found
                    if found == size:
                        break
            if best is not None:
                return best
        above = self._filled >> (own + 1)
        if not above:
            return None
        return next(reversed(self._classes[own + (above & -above).bit_length()]))

    def oldest(self) -> tuple[int, int]:
        return next(iter(self.sizes.items()))

    def largest(self) -> Iterator[int]:
        """Some of the largest pieces, which may be changed between two steps only if no third is taken."""
        filled, count = self._filled, 0
        while filled:
            highest = filled.bit_length() - 1
            for start in self._classes[highest]:
                yield start
                count += 1
                if count == _TRIES:
                    return
            filled ^= 1 << highest

    def _insert(self, start: int, size: int) -> None:
        self.sizes[start] = size
        self.starts[start + size] = start
        number = _class_of(size // self._page)
        members = self._classes.get(number)
        if members is None:
            members = self._classes[number] = OrderedDict()
        members[start] = None
        self._filled |= 1 << number
        self.total += size

    def _remove(self, start: int) -> int:
        size = self.sizes.pop(start)
        del self.starts[start + size]
        number = _class_of(size // self._page)
        members = self._classes[number]
        del members[start]
        if not members:
            self._filled &= ~(1 << number)
        self.total -= size
        return size


def _class_of(pages: int) -> int:
    """Grows with `pages`: 1, 2, … 15, then 16 for 16 and 17, …, 24 for 32 to 35, …"""
    shift = pages.bit_length() - 4
    return pages if shift <= 0 else (shift << 3) + (pages >> shift)
