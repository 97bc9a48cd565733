"""The runtime without workflows: functions as tasks, classes as actors, values as objects. `import dagengine.runtime as rt`.

    @rt.remote
    def square(x: int) -> int:
        return x * x

    with rt.start(workers=4):
        refs = [square.remote(x) for x in range(10)]
        print(rt.get(refs))

The same functions work inside of tasks. docs/runtime.md has the whole story.

May import nothing of ours but base modules and runtime modules.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from dagengine.errors import BadArguments, BadOption, DefinitionError, LoadError
from dagengine.functions import named_by_itself
from dagengine.runtime import clients
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import Target, encode_call, target
from dagengine.runtime.handles import ActorHandle, ActorMethod, Group, Ref, RefStream, borrow
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from dagengine.runtime.protocol import NodeFacts
    from dagengine.runtime.session import Session

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ActorMethod",
    "Group",
    "Ref",
    "RefStream",
    "RemoteFunction",
    "actor",
    "borrow",
    "cancel",
    "explain",
    "get",
    "group",
    "kill",
    "nodes",
    "put",
    "remote",
    "start",
    "stats",
    "stop",
    "wait",
    "waits",
]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
V = TypeVar("V")

_OF_TASKS = frozenset({"returns", "ahead", "expected", "retries"})
_OF_ACTORS = frozenset({"max_restarts", "concurrency", "checkpoint_every"})
_STRATEGIES = ("pack", "spread", "strict_pack", "strict_spread")


class _Unknown:
    """What only a function whose result is not typed (Any) returns, for type checkers."""


class RemoteFunction(Generic[P, R_co]):
    """A function whose calls run on workers: `f.remote(…)` is a ref to the result. `f(…)` calls it here."""

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R_co], options: CallOptions) -> None:
        if not callable(function):
            raise DefinitionError(f"@remote takes a function or a class, not {function!r}.")
        if hasattr(function, "__name__"):
            functools.update_wrapper(self, function)
        self.function = function
        self.settings = options
        self._target: Target | None = None
        self._shape: tuple[Any, Any] = (None, None)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    @overload
    def remote(self: RemoteFunction[..., _Unknown], /, *args: Any, **kwargs: Any) -> Ref[Any]: ...
    @overload
    def remote(self: RemoteFunction[..., Iterator[V]], /, *args: Any, **kwargs: Any) -> RefStream[V]: ...
    @overload
    def remote(self: RemoteFunction[..., AsyncIterator[V]], /, *args: Any, **kwargs: Any) -> RefStream[V]: ...
    @overload
    def remote(self: RemoteFunction[..., Coroutine[Any, Any, V]], /, *args: Any, **kwargs: Any) -> Ref[V]: ...
    @overload
    def remote(self, /, *args: Any, **kwargs: Any) -> Ref[R_co]: ...
    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call it on a worker. Arguments that are refs, also in containers, are their values there.

        With `returns=n` it is a list of n refs; of a generator function it is a stream of refs.
        """
        client = clients.client()
        owner, shape = self._shape
        if owner is not client:
            shape = self._declared(client)
        leading = self._target.leading  # type: ignore[union-attr]
        call = encode_call(leading + args if leading else args, kwargs, shape.name, client.put_encoded)
        return client.submit(shape, call)

    def _declared(self, client: Any) -> Any:
        if self._target is None:
            # What is found by the name of the decorated function is cheaper to name than to send.
            named = named_by_itself(self) if hasattr(self, "__qualname__") else False
            self._target = target(self if named else self.function, self.settings.returns)
        shape = client.declare(self._target, self.settings)
        self._shape = (client, shape)
        return shape

    def options(self, **changes: Any) -> RemoteFunction[P, R_co]:
        """The same function with other options, for one call or more: `f.options(cpus=2).remote(x)`."""
        _refuse(changes, _OF_ACTORS, "an actor's class")
        return RemoteFunction(self.function, self.settings.changed(**changes))

    def __reduce__(self) -> Any:
        if hasattr(self, "__qualname__") and named_by_itself(self):
            return self.__qualname__
        return RemoteFunction, (self.function, self.settings)

    def __repr__(self) -> str:
        return f"<remote function {getattr(self, '__qualname__', self.function)}>"


class ActorClass(Generic[T]):
    """A class whose instances live in worker processes of their own: `C.remote(…)` makes one. `C(…)` makes one here."""

    __name__: str
    __qualname__: str

    def __init__(self, cls: type[T], options: CallOptions) -> None:
        functools.update_wrapper(self, cls, updated=())
        self.function = cls
        self.settings = options
        self._target: Target | None = None
        self._shape: tuple[Any, Any] = (None, None)
        self._methods: tuple[str, ...] = tuple(
            name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")
        )

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self.function(*args, **kwargs)

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Make an actor. Returns at once; what its constructor raises, its calls raise."""
        client = clients.client()
        owner, shape = self._shape
        if owner is not client:
            if self._target is None:
                self._target = target(self if named_by_itself(self) else self.function)
            shape = client.declare(self._target, self.settings)
            self._shape = (client, shape)
        call = encode_call(args, kwargs, shape.name, client.put_encoded)
        return client.create_actor(shape, call, self._methods)  # type: ignore[no-any-return]

    def options(self, **changes: Any) -> ActorClass[T]:
        """The same class with other options: `C.options(name="counter", max_restarts=3).remote()`."""
        _refuse(changes, _OF_TASKS, "a function")
        return ActorClass(self.function, self.settings.changed(**changes))

    def __reduce__(self) -> Any:
        if named_by_itself(self):
            return self.__qualname__
        return ActorClass, (self.function, self.settings)

    def __repr__(self) -> str:
        return f"<actor class {self.__qualname__}>"


def _refuse(changes: dict[str, Any], names: frozenset[str], whose: str) -> None:
    for name in changes:
        if name in names:
            raise BadOption(f"{name}= is an option of {whose}.")


@overload
def remote(function: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]  # a class is callable, too
@overload
def remote(function: Callable[P, R_co], /) -> RemoteFunction[P, R_co]: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...
def remote(function: Any = None, /, **options: Any) -> Any:
    """Make a function remote, or a class an actor's: `@remote`, or `@remote(cpus=2, retries=0)`.

    mypy takes no notice of what decorates a class: for it, write `Counters = remote(Counter)`.

    Raises BadOption for an option that is unknown or out of range.
    """
    if function is None:
        CallOptions().changed(**options)
        return lambda wrapped: _remote(wrapped, options)
    return _remote(function, options)


def _remote(wrapped: Any, options: dict[str, Any]) -> Any:
    if isinstance(wrapped, (RemoteFunction, ActorClass)):
        return wrapped.options(**options)
    if isinstance(wrapped, type):
        _refuse(options, _OF_TASKS, "a function")
        # Most actors wait most of the time: one that holds a cpu for its life has to say so, or a few would starve all tasks.
        return ActorClass(wrapped, CallOptions(retries=0, cpus=0.0).changed(**options))
    _refuse(options, _OF_ACTORS, "an actor's class")
    return RemoteFunction(wrapped, CallOptions().changed(**options))


# ---- life -----------------------------------------------------------------------------------


def start(
    workers: int | None = None,
    *,
    memory: int | None = None,
    object_memory: int | None = None,
    spill: str | Sequence[str] | None = None,
    room_timeout: float | None = None,
    gpus: int | None = None,
    gpu_memory: int | None = None,
    resources: dict[str, float] | None = None,
) -> Session:
    """Start the runtime of this process: a context manager, or until `stop()`. It also starts by itself at first use.

    workers: worker processes; one for each processor that this process may use
    memory: bytes that tasks may ask for in all; object_memory: the hard limit of bytes for objects in memory
    spill: folder or URL, or several, for objects that have no room in memory
    room_timeout: seconds that a task whose inputs find no room waits at least, when nothing can be spilled any more
    gpus, gpu_memory: declared devices and bytes on each; found by themselves where NVIDIA's library is there
    resources: named resources that tasks may ask for, {"licence": 2}

    Raises RuntimeStopped if one is running already, or within a task.
    """
    settings = {
        "memory": memory,
        "object_memory": object_memory,
        "spill": spill,
        "room_timeout": room_timeout,
        "gpus": gpus,
        "gpu_memory": gpu_memory,
        "resources": resources,
    }
    return clients.start(workers, **{name: value for name, value in settings.items() if value is not None})


stop = clients.stop


# ---- values ---------------------------------------------------------------------------------


def put(value: T) -> Ref[T]:
    """Keep a value as an object, so that many tasks can read it. Waits while there is no room.

    Raises Unpicklable; ObjectStoreFull if no room comes.
    """
    return cast("Ref[T]", clients.client().put(value))


@overload
def get(refs: Ref[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[Ref[T]], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or of each of a list, when all have ended. Large arrays are views on shared memory: read-only.

    Raises a failed task's own exception, as soon as there is one, with the remote traceback as its cause; WorkerLost,
    TaskTimeout, TaskCancelled, ActorLost, ObjectLost; WaitTimeout after `timeout` seconds.
    """
    if isinstance(refs, Ref):
        return refs._client.get([refs], timeout)[0]
    found = _checked(refs, "get")
    return _client_of(found).get(found, timeout)


def wait(refs: Iterable[Ref[T]], count: int = 1, timeout: float | None = None) -> tuple[list[Ref[T]], list[Ref[T]]]:
    """Wait until `count` of them have ended, well or not, or the time is over: (all that have ended, the rest)."""
    found = _checked(refs, "wait")
    if not 0 <= count <= len(found):
        raise BadArguments(f"wait for {count} of {len(found)} refs: count has to be from 0 to {len(found)}.")
    ended = _client_of(found).wait(found, count, timeout)
    return [ref for ref, is_over in zip(found, ended, strict=True) if is_over], [
        ref for ref, is_over in zip(found, ended, strict=True) if not is_over
    ]


def _client_of(refs: list[Ref[Any]]) -> Any:
    # Refs of a runtime that was stopped tell what became of them, without another one being started.
    return refs[0]._client if refs else clients.client()


def _checked(refs: Any, what: str) -> list[Ref[Any]]:
    if isinstance(refs, (str, bytes, RefStream)) or not isinstance(refs, Iterable):
        raise BadArguments(f"{what} takes a ref or a list of refs, not {type(refs).__name__}.")
    found = list(refs)
    for ref in found:
        if not isinstance(ref, Ref):
            raise BadArguments(f"{what} takes refs, and was given {type(ref).__name__}.")
    return found


def cancel(ref: Ref[Any] | RefStream[Any], force: bool = False) -> None:
    """Drop the task if it has not begun. One that runs ends by itself, or with `force` is ended with its worker."""
    if not isinstance(ref, (Ref, RefStream)):
        raise BadArguments(f"cancel takes a ref, not {type(ref).__name__}.")
    clients.client().cancel(ref.id[0], force)


# ---- actors, groups -------------------------------------------------------------------------


def actor(name: str) -> ActorHandle[Any]:
    """The actor that was made with that `name=`. Raises LoadError if there is none."""
    found = clients.client().named_actor(name)
    if found is None:
        raise LoadError(f"there is no actor named {name}. It was not made yet, or its last handle is gone.")
    return cast("ActorHandle[Any]", found)


def kill(handle: ActorHandle[Any]) -> None:
    """End an actor at once; it is not made again. What was called and has not ended fails with ActorLost."""
    if not isinstance(handle, ActorHandle):
        raise BadArguments(f"kill takes an actor's handle, not {type(handle).__name__}. cancel() is for refs.")
    clients.client().kill(handle)


def group(bundles: Sequence[dict[str, Any]], strategy: str = "pack") -> Group:
    """Set bundles of resources aside, all of them or none: `group([{"cpus": 1}, {"cpus": 1, "gpus": 1}])`.

    strategy: "pack" (on few nodes), "spread" (over many), "strict_pack" (on one), "strict_spread" (one each)
    Tasks and actors run in it with `group=`, and `bundle=` if it matters which. Raises Infeasible.
    """
    if strategy not in _STRATEGIES:
        raise BadOption(f"strategy={strategy!r} has to be one of {', '.join(_STRATEGIES)}.")
    if not bundles:
        raise BadArguments("a group needs at least one bundle, as in group([{'cpus': 1}]).")
    known = ("cpus", "gpus", "gpu_memory", "memory", "resources")
    for bundle in bundles:
        for name in bundle:
            if name not in known:
                raise BadOption(f"a bundle has no {name}.{did_you_mean(name, known)}")
    options = [CallOptions(**{"cpus": 0.0, **bundle}) for bundle in bundles]
    return cast("Group", clients.client().group(options, [dict(bundle) for bundle in bundles], strategy))


# ---- facts ----------------------------------------------------------------------------------


def nodes() -> list[NodeFacts]:
    """The nodes as they are now: what they have, what is free, bytes of objects."""
    return cast("list[NodeFacts]", clients.client().nodes())


def stats() -> dict[str, int | float]:
    """Counters since the start."""
    return cast("dict[str, int | float]", clients.client().stats())


def waits() -> dict[int, str]:
    """For every unfinished task, by the number of its ref, what it waits for. Blocked cycles are named as such."""
    return cast("dict[int, str]", clients.client().waits())


def explain(ref: Ref[Any] | RefStream[Any]) -> dict[str, Any]:
    """Where the ref's task is and why: its state, what it waits for, the terms of its placement."""
    return cast("dict[str, Any]", clients.client().explain(ref.id[0]))
