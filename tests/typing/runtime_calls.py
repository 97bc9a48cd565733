"""Calls without workflows, as users write them: type checkers know what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import dagengine.runtime as rt


@rt.remote
def double(value: int) -> int:
    return 2 * value


@rt.remote(cpus=0.5)
def half(value: float) -> float:
    return value / 2


@rt.remote
async def later(value: str) -> str:
    return value


@rt.remote
def count(most: int) -> Iterator[int]:
    yield from range(most)


class Counter:
    def add(self, amount: int) -> int:
        return amount


Counters = rt.remote(Counter)

ref = double.remote(1)
assert_type(ref, rt.Ref[int])
assert_type(rt.get(ref), int)
assert_type(rt.get([ref, double.remote(ref)]), list[int])
assert_type(rt.get(later.remote("text")), str)
assert_type(count.remote(3), rt.RefStream[int])
assert_type([rt.get(item) for item in count.remote(3)], list[int])
assert_type(rt.wait([ref]), tuple[list[rt.Ref[int]], list[rt.Ref[int]]])
assert_type(rt.put("text"), rt.Ref[str])
assert_type(double(3), int)
assert_type(Counters.remote(), rt.ActorHandle[Counter])
