"""Waiting for values in a sync body: `get`, `gather`, `as_completed`, `first`. Outside of a run they pass values on.

The order of completion is part of the record, so a replayed body sees the same order. `aio` has the same for async
bodies. May import errors and refs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

from dagengine.errors import BadArguments, RefMisuse
from dagengine.refs import Ref, body_of

T = TypeVar("T")


@overload
def get(ref: Coroutine[Any, Any, T]) -> T: ...
@overload
def get(ref: T) -> T: ...
def get(ref: Any) -> Any:
    """The value, when the step has ended. Raises the step's own exception; StepSkipped or StepCancelled if it did not run.

    A value that is not a ref is returned as it is. In an async body this blocks the other branches: use `aio.get`. Raises
    RefMisuse for a list of refs, which is `gather`'s.
    """
    if isinstance(ref, Ref):
        return body_of(ref).wait([ref])[0].value()
    if isinstance(ref, (list, tuple)) and any(isinstance(item, Ref) for item in ref):
        raise RefMisuse("get() takes one ref, and this is a list of them: gather(refs) gives their values.")
    return ref


@overload
def gather(refs: Iterable[Coroutine[Any, Any, T]], *, return_exceptions: Literal[False] = False) -> list[T]: ...
@overload
def gather(refs: Iterable[T], *, return_exceptions: Literal[False] = False) -> list[T]: ...
@overload
def gather(refs: Iterable[T], *, return_exceptions: bool) -> list[T | BaseException]: ...
def gather(refs: Iterable[Any], *others: Any, return_exceptions: bool = False) -> list[Any]:
    """The values in the order of `refs`, when all steps have ended (also those after one that failed).

    Raises the first failed step's exception, or with `return_exceptions` puts the exceptions in the places of values.
    """
    if others:
        raise BadArguments("gather() takes one list of refs: gather([a, b]), and not gather(a, b).")
    items = body_of(refs).wait([refs])[0].value() if isinstance(refs, Ref) else list(refs)
    waiting = [item for item in items if isinstance(item, Ref)]
    outcomes = iter(body_of(waiting[0]).wait(waiting)) if waiting else iter(())
    return [
        (next(outcomes).value_or_exception() if return_exceptions else next(outcomes).value())
        if isinstance(item, Ref)
        else item
        for item in items
    ]


class as_completed(Iterator[T]):  # noqa: N801 - reads as the function that it is to its users
    """The values, one by one in the order in which the steps end.

    When a step failed, asking for it raises its exception; the iterator can be asked on.
    """

    def __init__(self, refs: Iterable[T]) -> None:
        items = list(refs)
        self._known = deque(item for item in items if not isinstance(item, Ref))
        waiting = [item for item in items if isinstance(item, Ref)]
        self._waiter = body_of(waiting[0]).waiter(waiting) if waiting else None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._known:
            return self._known.popleft()
        if self._waiter is None or not self._waiter.left:
            raise StopIteration
        value: T = self._waiter.next().value()
        return value


def first(refs: Iterable[T]) -> T:
    """The value of the step that ends first; raises its exception if it failed. The others go on.

    Raises BadArguments if there are none.
    """
    for value in as_completed(refs):
        return value
    raise BadArguments("first() of nothing: give it at least one ref.")
