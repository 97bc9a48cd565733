"""`task`: a function whose calls in a workflow's body become steps. Anywhere else it is the plain function.

May import config, errors, options, what is said of caches, scopes, functions, refs, deferred and transactions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar, cast, overload

from dagengine.cache_options import Cache, parameters_of
from dagengine.errors import BadArguments, BadOption, DefinitionError
from dagengine.functions import named_by_itself
from dagengine.options import Options, RetryOn
from dagengine.refs import Ref
from dagengine.scopes import current_scope

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Unpack

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
V = TypeVar("V")


class Changes(TypedDict, total=False):
    """The options, as keyword arguments; `dagengine.options.Options` says what each is."""

    retries: int
    retry_delay: float
    backoff: float
    max_delay: float
    jitter: float
    retry_on: RetryOn | None
    timeout: float | None
    cpus: float
    memory: int
    gpus: float
    gpu_memory: int
    resources: Mapping[str, float]
    priority: int
    node: str | None
    grace: float
    checkpoint: bool
    cache: Cache | bool | None
    at_most_once: bool
    heartbeat_timeout: float | None
    transactional: bool | str
    undo: Task[..., Any] | None
    max_depth: int
    version: str | None
    name: str | None
    key: str | None


class Task(Generic[P, R_co]):
    """A decorated function. `function` is the plain one, `settings` what was said of it."""

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R_co], options: Options) -> None:
        if not callable(function):
            raise DefinitionError(f"@task takes a function, not {function!r}.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(f"{function.__qualname__} is a generator, and a step has one value: return a list.")
        if options.transactional and inspect.iscoroutinefunction(function):
            raise BadOption(f"transactional= is for plain functions, and {function.__qualname__} is async.")
        functools.update_wrapper(self, function)
        self.function = function
        self.settings = options
        if not hasattr(function, "__qualname__"):  # a partial, an object that can be called
            self.__module__, self.__qualname__ = __name__, f"<{type(function).__name__}>"
        self.name: str = options.name or str(getattr(function, "__name__", self.__qualname__))
        self._fitting: set[tuple[object, ...]] = set()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        scope = current_scope.get()
        if scope is None:
            return self.function(*args, **kwargs)
        return cast(R_co, scope.body.call(scope, self, args, kwargs))

    @overload
    def map(
        self: Task[Concatenate[T, Q], Coroutine[Any, Any, V]], items: Iterable[T], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> list[V]: ...
    @overload
    def map(self: Task[Concatenate[T, Q], V], items: Iterable[T], /, *args: Q.args, **kwargs: Q.kwargs) -> list[V]: ...
    def map(self, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> Any:
        """One call for each item, as the first argument; further arguments are the same for all.

        Over items that are known: a list of refs. Over a ref (a list that another step will make): one ref to the
        list of results. Outside of a run: the list of results.
        """
        scope = current_scope.get()
        if scope is None:
            return [self.function(item, *args, **kwargs) for item in items]
        if isinstance(items, Ref):
            return scope.body.map_later(scope, self, items, args, kwargs)
        return scope.body.map_now(scope, self, items, args, kwargs)

    def defer(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Inside of a task: a call that is made after this task, which has to return it. It is recorded in one commit
        with the task's completion. Outside of a run: the plain call.
        """
        from dagengine.deferred import defer

        return cast(R_co, defer(self, args, kwargs))

    def options(self, **changes: Unpack[Changes]) -> Task[P, R_co]:
        """The same task with other options, for one call or more: `fetch.options(timeout=5)(url)`."""
        if "transactional" in changes:
            raise DefinitionError(f"transactional= belongs to {self.name} itself: say @task(transactional=...).")
        return Task(self.function, self.settings.changed(**changes))

    @functools.cached_property
    def in_attempt(self) -> Callable[..., Any]:
        """What a worker calls."""
        if not self.settings.transactional:
            return self.function
        from dagengine.transactions import Transactional

        return Transactional(self.function, self.settings.transactional)

    def is_retriable(self, error: BaseException) -> bool:
        """Whether the task's `retry_on` lets this exception be retried. Workers ask, next to the exception."""
        return self.settings.retriable(error)

    def change_from(self, named: object) -> Callable[[Any], Task[..., Any]] | None:
        """What makes this task of `named`, which has the same function, for whoever calls it; None if that is as good."""
        settings = getattr(named, "settings", Options())
        if self.settings.transactional != settings.transactional:
            raise DefinitionError(
                f"{self.name}: transactional= is not recorded, so workers have to find it by the function's name."
                " Say it where the function is defined: @task(transactional=...)."
            )
        return None if self.settings.retry_on == settings.retry_on else Retrying(self.settings.retry_on)

    @functools.cached_property
    def signature(self) -> Signature:
        try:
            return inspect.signature(self.function)
        except ValueError:  # some built-in ones tell none
            return inspect.signature(lambda *args, **kwargs: None)

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises BadArguments if a call with these would not fit the signature."""
        shape = (len(args), *kwargs)  # whether a call fits depends on no more than this
        if shape in self._fitting:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            method = (
                ". A task is no method: pass the object as an argument" if "self" in self.signature.parameters else ""
            )
            raise BadArguments(f"{self.name}{self.signature}: {error}{method}.") from None
        self._fitting.add(shape)

    def options_json(self) -> dict[str, Any]:
        """The options for the record, without those that have their defaults; what keys of the cache need is with them."""
        found = self.settings.to_json()
        if self.settings.cache:
            found["parameters"] = parameters_of(self.signature)
        return found

    def __reduce__(self) -> Any:
        if named_by_itself(self):
            return self.__qualname__
        self._check_that_no_password_travels()
        return Task, (self.function, self.settings)

    def _check_that_no_password_travels(self) -> None:
        """What travels by value is recorded, and so would be the URL of its database."""
        from dagengine.config import without_password

        where = self.settings.transactional
        if isinstance(where, str) and without_password(where) != where:
            raise BadOption(
                f"transactional= of {self.name} has a password, which would be recorded, as no module and name lead to this"
                " task. Define it at the top level of a module, or leave the password to the driver (~/.pgpass, PGPASSFILE)."
            )

    def __repr__(self) -> str:
        return f"<task {self.__module__}.{self.__qualname__}>"


@dataclass(frozen=True, slots=True)
class Retrying:
    """Makes of a task, or of its function, the task with this `retry_on`."""

    retry_on: RetryOn | None

    def __call__(self, named: Any) -> Task[..., Any]:
        if isinstance(named, Task):
            return named.options(retry_on=self.retry_on)
        return Task(named, Options(retry_on=self.retry_on))


@overload
def task(function: Callable[P, R_co], /) -> Task[P, R_co]: ...
@overload
def task(**options: Unpack[Changes]) -> Callable[[Callable[P, R_co]], Task[P, R_co]]: ...
def task(function: Callable[P, R_co] | None = None, /, **options: Unpack[Changes]) -> Any:
    """Make a task of a function, sync or async: `@task`, or `@task(retries=3, timeout=60)`.

    Raises BadOption for an option that is unknown or out of range.
    """
    settings = Options().changed(**options)
    if settings.key is not None:
        raise DefinitionError("key= belongs to one call: use f.options(key=...)(...).")
    if function is not None:
        return Task(function, settings)
    return lambda wrapped: Task(wrapped, settings)
