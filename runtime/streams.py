"""A task that makes many objects: each item of what it returns is handed over at once, while the task goes on.

Anything that can be iterated will do: a generator, an async generator, a list. When nobody reads, it waits; when nobody
wants more, its generator is closed, so that its `finally` runs.

May import nothing of ours but values and runtime modules.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from types import CoroutineType
from typing import Any

from dagengine.runtime.hosting import Flow, Host
from dagengine.runtime.messages import Run, Written, Yield
from dagengine.values import Encoded, encode

Write = Callable[[Encoded, Run], Written]


def stream(items: Any, name: str, run: Run, host: Host, write: Write) -> int:
    """Hand over each of `items`, which function `name` has returned. How many there were."""

    def hand(index: int, item: Any) -> None:
        encoded = encode(item, f"item {index} of {name}", f"item {index}")
        host.hand_item(Yield(run.id, index, write(encoded, run)))

    flow = host.flow(run.id, run.ahead)
    try:
        if type(items) is CoroutineType or hasattr(items, "__aiter__"):
            import asyncio

            return asyncio.run(_drain_later(items, hand, flow))
        return _drain(items, hand, flow, name)
    finally:
        flow.close()


def _drain(items: Iterable[Any], hand: Callable[[int, Any], None], flow: Flow, name: str) -> int:
    try:
        iterator = iter(items)
    except TypeError:
        raise TypeError(
            f"{name} is to give several results, and returned {type(items).__qualname__}, which can't be iterated"
        ) from None
    index = 0
    try:
        while flow.may_make(index):
            try:
                item = next(iterator)
            except StopIteration:
                return index
            hand(index, item)
            del item  # while the next one is made, it is needed no more
            index += 1
        return index
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


async def _drain_later(items: Any, hand: Callable[[int, Any], None], flow: Flow) -> int:
    import asyncio

    if type(items) is CoroutineType:
        items = await items
    if not hasattr(items, "__aiter__"):
        return _drain(items, hand, flow, "an async function")
    iterator: AsyncIterator[Any] = aiter(items)
    index = 0
    try:
        # What waits, waits on another thread: what else the task has begun on this loop goes on.
        while await asyncio.to_thread(flow.may_make, index) if flow.must_wait(index) else flow.may_make(index):
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return index
            hand(index, item)
            del item
            index += 1
        return index
    finally:
        flow.give_up()  # what waits on another thread would keep this loop from ending
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
