"""Another function in the place of a task's, for tests that are of the workflow around it.

    with fake(charge, returns="receipt") as charged, memory_engine() as engine:
        engine.start(order, 17).result()
    assert charged.calls == [((17,), {})]

The fake stands in this process: for tasks that run in it, as those of `memory_engine` do. An engine keeps the function that
it has once called, so the fake goes around the engine. May import tasks only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dagengine.tasks import Task

_NOTHING = object()


class Fake:
    """`calls`: (arguments, keyword arguments) of each call, in the order in which they were made."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        return self._function(*args, **kwargs)


@contextmanager
def fake(
    task: Task[..., Any],
    function: Callable[..., Any] | None = None,
    *,
    returns: Any = _NOTHING,
    raises: BaseException | None = None,
) -> Iterator[Fake]:
    """Have `task` call `function`, return `returns`, or raise `raises`, as long as the block lasts."""
    if sum((function is not None, returns is not _NOTHING, raises is not None)) != 1:
        raise TypeError("a fake takes one of: a function, returns=, raises=")

    def answer(*args: Any, **kwargs: Any) -> Any:
        if raises is not None:
            raise raises
        return returns if function is None else function(*args, **kwargs)

    stand_in = Fake(answer)
    functools.update_wrapper(stand_in, task.function)
    before = dict(vars(task))
    task.function = stand_in
    vars(task).pop("in_attempt", None)
    try:
        yield stand_in
    finally:
        vars(task).clear()
        vars(task).update(before)
