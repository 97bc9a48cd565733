"""Waiting for values in an async body: as in `waiting`, but to be awaited, so that other branches go on.

`await ref` is the same as `await get(ref)`. May import errors, refs, moments and approvals.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Literal, TypeVar, overload

from dagengine.approvals import DEFAULT_NAME, Approval, answered, start_approval
from dagengine.errors import BadArguments
from dagengine.moments import MISSING, Duration, event, start_sleep
from dagengine.refs import Ref, body_of

T = TypeVar("T")


@overload
async def get(ref: Coroutine[Any, Any, T]) -> T: ...
@overload
async def get(ref: T) -> T: ...
async def get(ref: Any) -> Any:
    """The value, when the step has ended. Raises the step's own exception."""
    return await _value(ref)


async def _value(item: Any) -> Any:
    if isinstance(item, Ref):
        return await body_of(item).wait_async(item)
    return await item if isinstance(item, Coroutine) else item


@overload
async def gather(refs: Iterable[Coroutine[Any, Any, T]], *, return_exceptions: Literal[False] = False) -> list[T]: ...
@overload
async def gather(refs: Iterable[T], *, return_exceptions: Literal[False] = False) -> list[T]: ...
@overload
async def gather(refs: Iterable[T], *, return_exceptions: bool) -> list[T | BaseException]: ...
async def gather(refs: Iterable[Any], *, return_exceptions: bool = False) -> list[Any]:
    """The values in the order of `refs`, when all steps have ended.

    Raises the first failed step's exception, or with `return_exceptions` puts the exceptions in the places of values.
    """
    items = await _value(refs) if isinstance(refs, Ref) else list(refs)
    waiting = [item for item in items if isinstance(item, Ref)]
    if waiting:
        await body_of(waiting[0]).waiter(waiting).all_async()
    results: list[Any] = []
    for item in items:
        try:
            results.append(await _value(item))
        except Exception as error:
            if not return_exceptions:
                raise
            results.append(error)
    return results


async def as_completed(refs: Iterable[T]) -> AsyncIterator[T]:
    """The values, one by one in the order in which the steps end. Ends with the exception of the first that failed."""
    items = list(refs)
    for item in items:
        if not isinstance(item, Ref):
            yield await _value(item)
    waiting = [item for item in items if isinstance(item, Ref)]
    if waiting:
        waiter = body_of(waiting[0]).waiter(waiting)
        while waiter.left:
            yield (await waiter.next_async()).value()


async def first(refs: Iterable[T]) -> T:
    """The value of the step that ends first; raises its exception if it failed. The others go on."""
    async for value in as_completed(refs):
        return value
    raise BadArguments("first() of nothing: give it at least one ref.")


async def sleep(duration: Duration) -> None:
    """Wait for so long, as `dagengine.sleep`, while other branches go on."""
    waiting = start_sleep(duration)
    if isinstance(waiting, Ref):
        await _value(waiting)
        return
    import asyncio

    await asyncio.sleep(waiting)


async def wait_event(name: str, timeout: Duration | None = None, default: Any = MISSING) -> Any:  # noqa: ASYNC109 - durable
    """What is sent to this run under that name, as `dagengine.wait_event`, while other branches go on."""
    return await _value(event(name, timeout, default))


async def wait_approval(name: str = DEFAULT_NAME, timeout: Duration | None = None) -> Approval:  # noqa: ASYNC109
    """Somebody's yes, as `dagengine.wait_approval`, while other branches go on."""
    ref = start_approval(name, timeout)
    return answered(name, ref._key, await _value(ref))
