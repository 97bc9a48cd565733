"""Random workflow programs: what they are made of, their workflow, and what plain Python says that they come to.

A program is nested tuples, and the workflow `program` its interpreter on top of the engine. `plain` is another
interpreter, which knows nothing of it: the two share the tuples and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import strategies as st

import dagengine
from dagengine import Cache, first, gather, get, stateful, task, workflow

Program = tuple[Any, ...]


class Refused(Exception):
    """What a step raises, in programs that fail."""


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def double(x: int) -> int:
    return 2 * x


@task(checkpoint=False)
def fleeting(x: int) -> int:
    return x + 1


@task(cache=True)
def cached(x: int) -> int:
    return x * x % 1_000


@task(cache=Cache(scope="run"))
def known(x: int) -> int:
    return x + 2


@task
def listing(n: int) -> list[int]:
    return list(range(n % 4))


@task
def total(parts: list[int]) -> int:
    return sum(parts)


@task
def refuse(x: int) -> int:
    raise Refused(str(x))


@task
def descend(x: int, depth: int) -> Any:
    return x if depth == 0 else descend.defer(add.defer(x, depth), depth - 1)


@task
def spread(x: int) -> Any:
    return [double.defer(x), add.defer(x, x)]


@stateful
class Tally:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, x: int) -> int:
        self.value += x
        return self.value


@workflow
def inner(tree: Program, given: int) -> int:
    return add(evaluate(tree), given)


@workflow
def program(tree: Program) -> int:
    return cast(int, evaluate(tree))


def evaluate(tree: Program) -> Any:
    """The program in a body: an int, or a ref to one."""
    kind, *parts = tree
    return globals()[f"_{kind}"](*parts)


def _const(value: int) -> Any:
    return value


def _call(name: str, *parts: Program) -> Any:
    return globals()[name](*[evaluate(part) for part in parts])


def _map(name: str, items: tuple[Program, ...]) -> Any:
    return total(globals()[name].map([evaluate(item) for item in items]))


def _map_later(name: str, count: Program) -> Any:
    return total(globals()[name].map(listing(evaluate(count))))


def _branch(condition: Program, yes: Program, no: Program) -> Any:
    return evaluate(yes) if get(evaluate(condition)) % 2 else evaluate(no)


def _attempt(tried: Program, otherwise: Program) -> Any:
    try:
        return get(refuse(evaluate(tried)))
    except Refused:
        return evaluate(otherwise)


def _skipped(tried: Program, otherwise: Program) -> Any:
    try:
        return get(double(refuse(evaluate(tried))))
    except dagengine.StepSkipped:
        return evaluate(otherwise)


def _gathered(parts: tuple[Program, ...]) -> Any:
    return sum(gather([evaluate(part) for part in parts]))


def _fastest(part: Program) -> Any:
    value = evaluate(part)
    return first([add(value, 0), add(0, value)])


def _nested(tree: Program, given: int) -> Any:
    return inner(tree, given)


def _counted(start: int, steps: tuple[Program, ...]) -> Any:
    tally = Tally(start)
    return total([tally.add(evaluate(step)) for step in steps])


def _loop(part: Program, times: int) -> Any:
    value = get(evaluate(part))
    for turn in range(times):
        value = get(add(value, turn))
    return value


def _descending(part: Program, depth: int) -> Any:
    return descend(evaluate(part), depth)


def _spreading(part: Program) -> Any:
    return total(spread(evaluate(part)))


def _recorded() -> Any:
    drawn = dagengine.random()
    return 1 if get(same(drawn)) == drawn else 0


@task
def same(x: float) -> float:
    return x


def _asleep(part: Program) -> Any:
    value = evaluate(part)
    dagengine.sleep("1h")
    return value


def _child(tree: Program, given: int) -> Any:
    return get(inner.start(tree, given))


# ---- what plain Python says -------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[..., int]] = {
    "add": lambda x, y: x + y,
    "double": lambda x: 2 * x,
    "fleeting": lambda x: x + 1,
    "cached": lambda x: x * x % 1_000,
    "known": lambda x: x + 2,
}


def plain(tree: Program) -> int:
    """What the program comes to."""
    kind, *parts = tree
    if kind == "const":
        return int(parts[0])
    if kind == "call":
        return FUNCTIONS[parts[0]](*[plain(part) for part in parts[1:]])
    if kind == "map":
        return sum(FUNCTIONS[parts[0]](plain(item)) for item in parts[1])
    if kind == "map_later":
        return sum(FUNCTIONS[parts[0]](item) for item in range(plain(parts[1]) % 4))
    if kind == "branch":
        return plain(parts[1] if plain(parts[0]) % 2 else parts[2])
    if kind in ("attempt", "skipped"):
        plain(parts[0])
        return plain(parts[1])
    if kind == "gathered":
        return sum(plain(part) for part in parts[0])
    if kind == "fastest":
        return plain(parts[0])
    if kind == "nested":
        return plain(parts[0]) + int(parts[1])
    if kind == "counted":
        value, seen = parts[0], 0
        for step in parts[1]:
            value += plain(step)
            seen += value
        return int(seen)
    if kind == "loop":
        return plain(parts[0]) + sum(range(parts[1]))
    if kind == "descending":
        return plain(parts[0]) + sum(range(parts[1] + 1))
    if kind == "spreading":
        return 4 * plain(parts[0])
    if kind == "asleep":
        return plain(parts[0])
    if kind == "child":
        return plain(parts[0]) + int(parts[1])
    assert kind == "recorded"
    return 1


# ---- making them ------------------------------------------------------------------------------

SMALL = st.integers(0, 9)
UNARY = st.sampled_from(["double", "fleeting", "cached", "known"])


def _tagged(kind: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Program]:
    return st.tuples(st.just(kind), *parts)


def _grown(part: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(part, min_size=1, max_size=3).map(tuple)
    # What changes a stateful object's state has to be recorded: nothing fleeting, and so nothing but numbers.
    numbers = st.lists(_tagged("const", SMALL), min_size=1, max_size=3).map(tuple)
    return st.one_of(
        _tagged("call", UNARY, part),
        _tagged("call", st.just("add"), part, part),
        _tagged("map", UNARY, several),
        _tagged("map_later", UNARY, part),
        _tagged("branch", part, part, part),
        _tagged("attempt", part, part),
        _tagged("skipped", part, part),
        _tagged("gathered", several),
        _tagged("fastest", part),
        _tagged("nested", part, SMALL),
        _tagged("counted", SMALL, numbers),
        _tagged("loop", part, st.integers(1, 3)),
        _tagged("descending", part, st.integers(0, 3)),
        _tagged("spreading", part),
        _tagged("asleep", part),
        _tagged("child", part, SMALL),
    )


PROGRAMS = st.recursive(_tagged("const", SMALL) | st.just(("recorded",)), _grown, max_leaves=6)
