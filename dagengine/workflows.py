"""`workflow`: a function whose calls of tasks become a durable run. Called by itself it is the plain function.

Called in the body of another workflow, it adds its steps to that run, in a scope of its own.
May import errors, validation, scopes, functions, tags, tasks and, only when a run is started or submitted, what does that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from dagengine.errors import BadArguments, BadOption, DefinitionError, LoadError
from dagengine.functions import load_file, load_module, named_by_itself
from dagengine.scopes import Scope, current_scope
from dagengine.tags import checked
from dagengine.tasks import Task
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from inspect import Signature

    from dagengine.run import Run
    from dagengine.serving.submission import Queued

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Workflow(Generic[P, R_co]):
    """A decorated function. `function` is the plain one.

    timeout: seconds that a start or resume of a run may take
    compensate: whether a run that fails undoes what its tasks with `undo=` did
    tags: of its runs, by name
    """

    __name__: str
    __qualname__: str
    one_call_of: Task[P, R_co] | None = None
    """The task whose name it is found by."""

    def __init__(
        self,
        function: Callable[P, R_co],
        name: str | None = None,
        timeout: float | None = None,
        compensate: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if not callable(function):
            raise DefinitionError(f"@workflow takes a function, not {function!r}.")
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        if not self.name.isprintable() or any(c in "/[]" for c in self.name):
            raise DefinitionError(f"name={self.name!r} has to be printable, without / [ ].")
        self.compensate = compensate
        self.tags = checked(tags or {})
        self.timeout = timeout
        if timeout is not None and not 0 < timeout < float("inf"):
            raise DefinitionError(f"timeout={timeout!r} has to be a number of seconds above 0.")

    def limited(self, timeout: float) -> Workflow[P, R_co]:
        """The same, with another timeout."""
        return Workflow(self.function, self.name, timeout, self.compensate, self.tags)

    def tagged(self, tags: Mapping[str, str] | None = None, /, **others: str) -> Workflow[P, R_co]:
        """The same, with these tags, too: `nightly.tagged(env="prod").start(2013)`. Raises BadOption."""
        both = {**self.tags, **(tags or {}), **others}
        return Workflow(self.function, self.name, self.timeout, self.compensate, both)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        scope = current_scope.get()
        if scope is None:
            return self._call_plainly(args, kwargs)
        self.check_arguments(args, kwargs)
        return self._call_in(scope.child(self.name), args, kwargs)

    def _call_plainly(self, args: Any, kwargs: Any) -> R_co:
        """As if there were no engine; also what it goes on with is called."""
        from dagengine.continuing import Continuation

        while True:
            try:
                return self.function(*args, **kwargs)
            except Continuation as asked:
                args, kwargs = asked.arguments

    def _call_in(self, scope: Scope, args: Any, kwargs: Any) -> R_co:
        if inspect.iscoroutinefunction(self.function):
            return cast(R_co, _in_scope(scope, self.function(*args, **kwargs)))
        token = scope.enter()
        try:
            return self.function(*args, **kwargs)
        finally:
            current_scope.reset(token)

    @overload
    def start(self: Workflow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Run[T]: ...
    @overload
    def start(self: Workflow[P, T], *args: P.args, **kwargs: P.kwargs) -> Run[T]: ...
    def start(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a run on the current engine (one on the default store, if none is open) and return its handle.

        In the body of another workflow: begin a child run, and return the ref to its result. It is cancelled and resumed
        with this run, and its failure is that of its step. (A call without `.start` makes its steps part of this run.)
        """
        scope = current_scope.get()
        if scope is not None:
            from dagengine.children import ChildCall, call

            return call(scope, ChildCall(self, detached=False), args, kwargs)
        from dagengine.engine import current_engine

        return current_engine().start(self, *args, **kwargs)

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Begin a run that lives on its own, and return its id; in the body of a workflow, the ref to its id."""
        scope = current_scope.get()
        if scope is not None:
            from dagengine.children import ChildCall, call

            return cast(str, call(scope, ChildCall(self, detached=True), args, kwargs))
        from dagengine.engine import current_engine

        return current_engine().start(self, *args, **kwargs).id

    @overload
    def run(self: Workflow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def run(self: Workflow[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a run, wait for its end, and return its result. In the body of another workflow: as `start`."""
        started = self.start(*args, **kwargs)
        return started if current_scope.get() is not None else started.result()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Record a run, leave it to `dagengine serve`, and return its id at once."""
        return self.queued().submit(*args, **kwargs)

    def queued(self, **how: Any) -> Queued[P]:
        """With a `submit` of its own: `nightly.queued(queue="reports", priority=5, delay="10m").submit(2013)`. What may be
        said is in `dagengine.serving.submission.Submission`."""
        from dagengine.serving.submission import Queued, Submission

        try:
            return Queued(self, Submission(**how))
        except TypeError:
            known = list(Submission.__dataclass_fields__)
            unknown = next(name for name in how if name not in known)
            raise BadOption(f"{self.name}.queued() does not take {unknown!r}.{did_you_mean(unknown, known)}") from None

    @functools.cached_property
    def signature(self) -> Signature:
        return inspect.signature(self.function)

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises BadArguments if a call with these would not fit the signature."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}{self.signature}: {error}.") from None

    def __reduce__(self) -> Any:
        return (
            self.__qualname__
            if named_by_itself(self)
            else (Workflow, (self.function, self.name, self.timeout, self.compensate, self.tags))
        )

    def __repr__(self) -> str:
        return f"<workflow {self.__module__}.{self.__qualname__}>"


async def _in_scope(scope: Scope, coroutine: Coroutine[Any, Any, R_co]) -> R_co:
    token = scope.enter()
    try:
        return await coroutine
    finally:
        current_scope.reset(token)


@overload
def workflow(function: Callable[P, R_co], /) -> Workflow[P, R_co]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    timeout: float | None = None,
    compensate: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[P, R_co]], Workflow[P, R_co]]: ...
def workflow(
    function: Callable[P, R_co] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    compensate: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Make a workflow of a function, sync or async: `@workflow`, or `@workflow(name="nightly", timeout=3600)`.

    timeout: seconds that a run may work after each start or resume; then it fails, and can be resumed
    compensate: before a run ends that has failed, run the `undo=` tasks of its steps that succeeded, newest first
    tags: names and texts by which its runs are found and kept: {"team": "data"}
    """
    if function is not None:
        return Workflow(function, name, timeout, compensate, tags)
    return lambda wrapped: Workflow(wrapped, name, timeout, compensate, tags)


def of_task(task: Task[P, R_co]) -> Workflow[P, R_co]:
    """The workflow whose body is one call of the task. Its runs are recorded, and found again, under the task's name."""

    @functools.wraps(task.function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return task(*args, **kwargs)

    found: Workflow[P, R_co] = Workflow(call, task.name)
    found.one_call_of = task
    return found


def load(entry: str) -> Workflow[..., Any]:
    """The workflow that `FILE.py:NAME` or `package.module:NAME` names; without a name, the only one there is. The name of a
    task stands for a run of one call of it.

    Raises LoadError, with the nearest name there is.
    """
    place, _, name = entry.rpartition(":") if ":" in entry else (entry, "", "")
    if not place:
        raise LoadError(f"{entry!r} names no workflow. Say FILE.py:WORKFLOW or package.module:WORKFLOW.")
    module = load_file(place) if place.endswith(".py") or "/" in place else load_module(place)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Workflow)}
    if name in found:
        return found[name]
    if isinstance(single := getattr(module, name or " ", None), Task):
        return of_task(single)
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name and hasattr(module, name):
        raise LoadError(f"{name} of {place} is neither a workflow nor a task. Decorate it with @workflow.")
    hint = did_you_mean(name, found, f"There are: {', '.join(found) or 'none'}.")
    raise LoadError(f"{place} has no workflow {name}.{hint}" if name else f"{place}: which workflow?{hint}")
