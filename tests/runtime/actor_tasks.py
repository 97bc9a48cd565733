"""Tasks and classes for tests of objects, streams and actors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator


def same(value: object) -> object:
    return value


def fail(message: str) -> None:
    raise ValueError(message)


def count_to(n: int) -> Iterator[int]:
    yield from range(n)


async def count_later(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError("enough")


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, amount: int) -> int:
        self.count += amount
        if amount < 0:
            raise ValueError("only upwards")
        return self.count

    async def add_later(self, amount: int) -> int:
        await asyncio.sleep(0)
        return self.add(amount)
