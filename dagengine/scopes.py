"""The keys of steps: `scope/function[ordinal]`, stable under interleaving.

A scope counts the calls of each function in it. The run's body has one, a workflow called in a workflow opens one, and
so does every concurrent branch (asyncio task) of an async body, numbered when it is *created*: which branch runs first
can't change a key. The current scope travels in a context variable; where there is none, tasks and workflows are plain
functions.

May import errors only; the body is known by its interface.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from dagengine.errors import DefinitionError

if TYPE_CHECKING:
    import asyncio

    from dagengine.body import Body

DEPTH_LIMIT = 100
"""Workflows called in workflows: well below Python's own limit of recursion, and a key of that depth fills a screen."""

current_scope: ContextVar[Scope | None] = ContextVar("dagengine_scope", default=None)


class Scope:
    """Where calls are made: its path and the ordinals handed out so far."""

    __slots__ = ("body", "depth", "explicit", "ordinals", "path")

    def __init__(self, body: Body, path: str, depth: int = 0) -> None:
        self.body = body
        self.path = path
        self.depth = depth
        self.ordinals: dict[str, int] = {}
        self.explicit: set[str] = set()

    def key(self, name: str, explicit: str | None = None) -> str:
        """The key of the next call of `name` in this scope. Raises DefinitionError if `explicit` was used before."""
        if explicit is None:
            ordinal = self.ordinals.get(name, 0)
            self.ordinals[name] = ordinal + 1
            return f"{self.path}/{name}[{ordinal}]"
        key = f"{self.path}/{name}[{explicit}]"
        if key in self.explicit:
            raise DefinitionError(f"two calls have the key {key}. Give each call in a scope a key of its own.")
        self.explicit.add(key)
        return key

    def child(self, name: str, explicit: str | None = None) -> Scope:
        """The scope of a workflow called, or a branch begun, in this one. Raises DefinitionError beyond DEPTH_LIMIT."""
        if self.depth >= DEPTH_LIMIT:
            raise DefinitionError(
                f"{name} is called {DEPTH_LIMIT} scopes deep. Does a workflow call itself without end? "
                "Let it stop, or loop in one body."
            )
        return Scope(self.body, self.key(name, explicit), self.depth + 1)

    def enter(self) -> Token[Scope | None]:
        return current_scope.set(self)


@contextmanager
def outside() -> Iterator[None]:
    """For code of the user's that runs on a body's thread without being the body, as unpickling does: nothing that it
    calls is a step."""
    token = current_scope.set(None)
    try:
        yield
    finally:
        current_scope.reset(token)


def branch_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task factory for the loop of an async body: each task it makes gets a scope of its own, numbered here."""
    import asyncio  # loaded by whoever has a loop; too dear for everybody who defines a task

    scope = current_scope.get()
    if scope is None:
        return asyncio.Task(coroutine, loop=loop, **options)
    token = scope.child("branch").enter()
    try:
        return asyncio.Task(coroutine, loop=loop, **options)  # copies the context, and with it the branch's scope
    finally:
        current_scope.reset(token)
