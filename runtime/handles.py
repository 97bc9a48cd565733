"""What users hold: refs of results, streams of them, actors and groups; and how these cross between processes.

A `Ref` stands for an object that may not exist yet. **Python's own reference counts decide how long it lives**: the
client (in the controller's process: the session) gives the object up when the last Ref to it is collected. Finalisers
may run at any moment, on any thread, with any lock held; so all they do is to note an id.

How a ref crosses:

    f.remote(ref), f.remote([ref])    as the value: a placeholder in the call, an input of the task
    f.remote(borrow(ref))             as itself: the task that reads it holds it, from before it runs until it has ended
    put([ref]), return [ref]          as itself: the object that contains it holds it

A ref that arrives in another process is held for that process until the last Ref there is collected, or the process
dies. Actor handles cross as themselves everywhere.

May import nothing of ours but errors, model, values and clients.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from dagengine.errors import BadArguments, RefMisuse
from dagengine.model import Failure
from dagengine.values import Placeholder

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PENDING: Final = 0
DONE: Final = 1
FAILED: Final = 2


class _Crossing(threading.local):
    """What is being encoded on this thread. `call`: arguments of a call, where refs are values. `kept`: gets what
    crosses as itself; None: nobody asked, so the client has to see to it."""

    call: bool = False
    kept: list[Any] | None = None


crossing = _Crossing()


class Client(Protocol):
    """Whatever refs and handles of this process belong to: the session, or within a task the way to it."""

    def dropped(self, key: tuple[Any, ...], light: bool = False) -> None:
        """Called by finalisers: the last handle of that key is gone. Must not lock, wait or raise. `light`: it takes no
        room in the arena."""

    def exported(self, handle: Any) -> None:
        """The handle is being pickled as itself, and nothing that we know of holds it."""

    def adopted_ref(self, number: tuple[int, ...], name: str) -> Any:
        """A ref that was pickled as itself, in this process."""

    def adopted_actor(self, number: int, name: str, methods: tuple[str, ...]) -> Any:
        """An actor's handle that was pickled."""

    def get(self, refs: Sequence[Any], timeout: float | None) -> list[Any]:
        """The values of refs."""

    def next_item(self, stream: Any, timeout: float | None) -> Any:
        """The next item's ref. Raises StopIteration at the end."""

    def call_actor(self, handle: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Any) -> Any:
        """Call a method; a ref."""


class Ref(Placeholder, Generic[T_co]):
    """A handle to an object that may not exist yet: the result of a task, or what was `put`.

    `rt.get(ref)` is its value. Given as an argument of a remote call, in containers too, it is the value there.
    """

    __slots__ = (
        "__weakref__",
        "_actor",
        "_client",
        "_contains",
        "_content",
        "_reads",
        "_state",
        "_unsure",
        "_waiters",
        "id",
        "name",
    )

    id: tuple[int, ...]
    name: str
    _client: Client
    _state: int
    _content: bytes | Failure | None  # the encoded value if it is small, or why there is none
    _reads: Any  # until the task has ended: the refs that it reads, and what else it holds
    _contains: Any  # handles inside of the value
    _waiters: list[Any] | None
    _unsure: bool  # the scheduler has not been told of it (yet): readers have to wait here
    _actor: Any

    def __init__(self, client: Client, number: tuple[int, ...], name: str) -> None:
        self._client = client
        self.id = number
        self.name = name
        self._state = PENDING
        self._content = None
        self._reads = None
        self._contains = None
        self._waiters = None
        self._unsure = False
        self._actor = None

    def __del__(self) -> None:
        # Where __init__ was not reached, or the interpreter is on its way out, there is nobody to tell.
        try:
            self._client.dropped(self.id, self._content is not None)
        except (AttributeError, TypeError):
            return

    def __reduce__(self) -> Any:
        if crossing.call:
            return Placeholder.__reduce__(self)
        return _as_itself(self)

    def __copy__(self) -> Ref[T_co]:
        return self

    def __deepcopy__(self, memo: Any) -> Ref[T_co]:
        return self

    def __repr__(self) -> str:
        state = ("pending", "done", "failed")[self._state]
        return f"<ref {'.'.join(str(part) for part in self.id)} of {self.name}, {state}>"

    def _misuse(self, *_: Any) -> Any:
        raise RefMisuse(f"{self!r} is a promise of a value: rt.get(ref) is the value. Or give the ref to a task.")

    __bool__ = __iter__ = __len__ = __getitem__ = __call__ = _misuse
    __int__ = __float__ = __index__ = _misuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _misuse
    __lt__ = __le__ = __gt__ = __ge__ = _misuse


def _as_itself(ref: Ref[Any]) -> Any:
    if crossing.kept is not None:
        crossing.kept.append(ref)
    else:
        ref._client.exported(ref)
    return _adopt_ref, (ref.id, ref.name)


def _adopt_ref(number: tuple[int, ...], name: str) -> Any:
    from dagengine.runtime.clients import client

    return client().adopted_ref(tuple(number), name)


class _Borrowed(Generic[T]):
    __slots__ = ("ref",)

    def __init__(self, ref: Ref[T]) -> None:
        self.ref = ref

    def __reduce__(self) -> Any:
        return _as_itself(self.ref)


def borrow(ref: Ref[T]) -> Ref[T]:
    """For an argument of a remote call: the task gets the ref itself, not its value."""
    if not isinstance(ref, Ref):
        raise BadArguments(f"borrow takes a ref, not {type(ref).__name__}.")
    return _Borrowed(ref)  # type: ignore[return-value]


class RefStream(Generic[T_co]):
    """The refs of what a generator yields, one by one, while it runs. Ends when it has ended; raises what it raised.

    When the stream is collected the generator is stopped.
    """

    __slots__ = ("__weakref__", "_client", "_next", "_state", "id", "name")

    def __init__(self, client: Client, number: tuple[int, ...], name: str, state: Any) -> None:
        self._client = client
        self.id = number
        self.name = name
        self._next = 0
        self._state = state

    def __iter__(self) -> Iterator[Ref[T_co]]:
        return self

    def __next__(self) -> Ref[T_co]:
        return self.next()

    def next(self, timeout: float | None = None) -> Ref[T_co]:
        """The next ref. Raises StopIteration at the end, WaitTimeout after `timeout` seconds."""
        found: Ref[T_co] = self._client.next_item(self, timeout)
        self._next += 1
        return found

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be sent to a task: iterate it here, and send its refs")

    def __del__(self) -> None:
        try:
            self._client.dropped(("stream", self.id[0]))
        except (AttributeError, TypeError):
            return

    def __repr__(self) -> str:
        return f"<stream {self.id[0]} of {self.name}, {self._next} taken>"


class ActorToken:
    """One for all handles of an actor in this process: when it is collected, the process has none left."""

    __slots__ = ("__weakref__", "client", "number")

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number

    def __del__(self) -> None:
        try:
            self.client.dropped(("actor", self.number))
        except (AttributeError, TypeError):
            return


class ActorHandle(Generic[T]):
    """An actor. `handle.method.remote(…)` calls a method; the calls of one caller are done in their order.

    The actor ends when its last handle is gone and what was called is done.
    """

    def __init__(self, token: ActorToken, name: str, methods: tuple[str, ...]) -> None:
        self._token = token
        self._name = name
        self._methods = methods

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._methods:
            raise AttributeError(f"the actor {self._name} has no method {name}")
        return ActorMethod(self, name)

    def __dir__(self) -> list[str]:
        return list(self._methods)

    def __reduce__(self) -> Any:
        if crossing.kept is not None:
            crossing.kept.append(self)
        else:
            self._token.client.exported(self)
        return _adopt_actor, (self._token.number, self._name, self._methods)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._token.number == self._token.number

    def __hash__(self) -> int:
        return hash(self._token.number)

    def __repr__(self) -> str:
        return f"<actor {self._name}>"


def _adopt_actor(number: int, name: str, methods: tuple[str, ...]) -> Any:
    from dagengine.runtime.clients import client

    return client().adopted_actor(number, name, tuple(methods))


class ActorMethod:
    """`handle.method`: call it with `.remote(…)`."""

    __slots__ = ("_changes", "_handle", "_name")

    def __init__(self, handle: ActorHandle[Any], name: str, changes: dict[str, Any] | None = None) -> None:
        self._handle = handle
        self._name = name
        self._changes = changes

    def remote(self, /, *args: Any, **kwargs: Any) -> Ref[Any]:
        handle = self._handle
        ref: Ref[Any] = handle._token.client.call_actor(handle, self._name, args, kwargs, self._changes)
        return ref

    def options(self, **changes: Any) -> ActorMethod:
        """The same method with other options for its calls: `timeout`, `grace`, `name`."""
        for name in changes:
            if name not in ("timeout", "grace", "name"):
                raise BadArguments(f"{name}= belongs to the actor, not to a call of it.")
        return ActorMethod(self._handle, self._name, changes)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RefMisuse(f"{self._name} is a method of an actor: call it with .{self._name}.remote(…).")


class Group:
    """A placement group: bundles of resources that are set aside together. Give it to `group=` of tasks and actors.

    A context manager; given back by `close()`, or when the last handle is collected.
    """

    def __init__(self, client: Any, number: int, bundles: list[dict[str, Any]], strategy: str) -> None:
        self._client = client
        self.id = (number,)
        self.bundles = bundles
        self.strategy = strategy
        self._closed = False

    def ready(self, timeout: float | None = None) -> Group:
        """Wait until the bundles are set aside. Raises Infeasible if they never can be, WaitTimeout after `timeout`."""
        self._client.group_ready(self, timeout)
        return self

    def close(self) -> None:
        """Give the resources back when the group's tasks have ended."""
        if not self._closed:
            self._closed = True
            self._client.ungroup(self.id[0])

    def __enter__(self) -> Group:
        return self.ready()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a placement group can't be sent to a task: give it to group= where you call")

    def __del__(self) -> None:
        try:
            if not self._closed:
                self._client.dropped(("group", self.id[0]))
        except (AttributeError, TypeError):
            return

    def __repr__(self) -> str:
        return f"<placement group {self.id[0]}: {self.strategy}, {len(self.bundles)} bundles>"
