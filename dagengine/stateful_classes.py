"""`stateful`: a class whose objects live in a worker, and whose calls in a workflow's body are steps, one after another.

Outside of a run a decorated class is the plain class. In a body, `Trainer(lr=0.1)` records a step and gives a *proxy*,
and `trainer.epoch(table)` records another one and gives a ref. To a type checker the proxy is an object of the class. It
has nothing but the methods: what the object holds is in a worker, or in the record.

The class stays the class that was written, so that objects are pickled by its name; only its `__new__` is another.
May import errors, model, options, tasks, scopes, functions, the run core's events and refs' words; the
body is known by its interface.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from dagengine.core.events import InstanceLetGo
from dagengine.errors import AttributeMisuse, BadArguments, BadOption, DefinitionError, RefMisuse
from dagengine.model import StepKind
from dagengine.options import Options
from dagengine.scopes import Scope, current_scope
from dagengine.tasks import Changes

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Unpack

    from dagengine.body import Body

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_READONLY = "__dagengine_readonly__"


def readonly(method: F) -> F:
    """Mark a method that leaves the object as it is: its calls run side by side, and are not replayed."""
    if not inspect.isfunction(method):
        raise DefinitionError(f"@readonly takes a method, not {method!r}. Put it under @staticmethod and the like.")
    setattr(method, _READONLY, True)
    return method


class Settings:
    """What was said of the class, as it is recorded with its steps."""

    def __init__(self, options: Options, checkpoint_every: int) -> None:
        self.options = options
        self.checkpoint_every = checkpoint_every

    def to_json(self) -> dict[str, Any]:
        every = {"checkpoint_every": self.checkpoint_every} if self.checkpoint_every != 1 else {}
        return {**self.options.to_json(), **every}


class Stateful:
    """What the engine knows of a decorated class; its attribute `__stateful__`. `function` is the class."""

    def __init__(self, target: type[Any], settings: Settings) -> None:
        self.function = target
        self.settings = settings
        self.name = settings.options.name or target.__name__
        self.__module__ = target.__module__
        self.__qualname__ = f"{target.__qualname__}.__stateful__"
        self._signature = _signature_of(target)
        self._methods: dict[str, Method] = {}

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises BadArguments if the class would not take these."""
        _bind(self._signature, self.name, args, kwargs)

    def method(self, name: str) -> Method | None:
        """The method of that name, if there is one that works on an object."""
        found = self._methods.get(name)
        if found is None:
            function = inspect.getattr_static(self.function, name, None)
            if not inspect.isfunction(function):
                return None
            found = self._methods[name] = Method(self, function)
        return found

    def is_retriable(self, error: BaseException) -> bool:
        """Whether `retry_on` lets this exception be retried. Workers ask, next to the exception."""
        return self.settings.options.retriable(error)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_methods": {}, "_signature": None}  # of no use to a worker

    def __repr__(self) -> str:
        return f"<stateful {self.function.__module__}.{self.function.__qualname__}>"


class Method:
    """A method whose calls are steps. It is found by the class's name, and known to people by both names."""

    def __init__(self, stateful: Stateful, function: Callable[..., Any]) -> None:
        self.function = stateful.function
        self.settings = stateful.settings
        self.method = function.__name__
        self.name = f"{stateful.name}.{function.__name__}"
        self.kind = StepKind.READONLY if getattr(function, _READONLY, False) else StepKind.METHOD
        self.is_retriable = stateful.is_retriable
        self.__module__ = stateful.__module__
        self.__qualname__ = stateful.__qualname__
        self._signature: Signature | None = inspect.signature(function)

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises BadArguments if the method would not take these."""
        _bind(self._signature, self.name, (None, *args), kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_signature": None}


class Proxy:
    """A stateful object in the hands of a workflow's body: its methods, and nothing else."""

    __slots__ = ("__body", "__home", "__key", "__scopes", "__seq", "__stateful")

    def __init__(self, body: Body, stateful: Stateful, seq: int, key: str, home: Scope) -> None:
        for name, value in (
            ("body", body),
            ("stateful", stateful),
            ("seq", seq),
            ("key", key),
            ("home", home),
            ("scopes", {}),
        ):
            object.__setattr__(self, f"_Proxy__{name}", value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # how Python itself asks what an object can do
        method = self.__stateful.method(name)
        if method is not None:
            return BoundMethod(self, method, self.__call)
        found = inspect.getattr_static(self.__stateful.function, name, None)
        if isinstance(found, (staticmethod, classmethod)):
            return getattr(self.__stateful.function, name)
        raise AttributeMisuse(
            self.__hint(f"read its attribute {name}", "Give the class a @readonly method that returns it")
        )

    def __call(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scope = current_scope.get()
        if scope is None or scope.body is not self.__body:
            raise BadArguments(
                f"{self!r} belongs to another run, or to no thread of this one. Call it in the body that made it."
            )
        key = self.__scope_in(scope).key(method.method)
        return self.__body.call_method(method, self.__seq, key, args, kwargs)

    def __scope_in(self, scope: Scope) -> Scope:
        """Where calls made in `scope` are counted: a branch, or a workflow called in the workflow, has counts of its own
        below the object, so that interleaving can't change keys."""
        found: Scope | None = self.__scopes.get(scope.path)
        if found is None:
            home = self.__home.path
            inner = "" if scope.path == home else "/" + scope.path.removeprefix(f"{home}/")
            found = self.__scopes[scope.path] = Scope(self.__body, f"{self.__key}{inner}", scope.depth)
        return found

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise RefMisuse(self.__hint(f"set its attribute {name}", "Give the class a method that does"))

    def __delattr__(self, name: str) -> NoReturn:
        raise RefMisuse(self.__hint(f"delete its attribute {name}", "Give the class a method that does"))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise RefMisuse(
            self.__hint("hand it to a task, or return it", "Hand over what one of its methods returns instead")
        )

    def __repr__(self) -> str:
        return f"<stateful {self.__key}>"

    def __del__(self) -> None:
        with suppress(Exception):  # also one that was never whole, and one that outlives its engine
            self.__body.stage.post(InstanceLetGo(self.__seq))

    def __hint(self, what: str, instead: str) -> str:
        return f"{self.__key} lives in a worker, so you can't {what}. {instead}."

    def _misused(self, what: str) -> NoReturn:
        raise RefMisuse(self.__hint(what, "Call one of its methods: that records a step"))


class BoundMethod:
    """`trainer.epoch`, before it is called."""

    __slots__ = ("__self__", "_call", "_method")

    def __init__(self, proxy: Proxy, method: Method, call: Callable[..., Any]) -> None:
        self.__self__ = proxy  # keeps the object in the body's hands
        self._method = method
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._method, args, kwargs)

    def __repr__(self) -> str:
        return f"<method {self._method.method} of {self.__self__!r}>"


def _misuse(what: str) -> Callable[..., NoReturn]:
    def method(self: Proxy, *_: object, **__: object) -> NoReturn:
        self._misused(what)

    return method


for _what, _names in {
    "iterate over it": ("iter", "reversed", "contains", "aiter"),
    "take its length": ("len",),
    "index it": ("getitem", "setitem", "delitem"),
    "call it": ("call",),
    "wait for it": ("await",),
    "enter it": ("enter", "exit", "aenter", "aexit"),
    "compare it": ("lt", "le", "gt", "ge"),
    "calculate with it": ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg"),
}.items():
    for _name in _names:
        setattr(Proxy, f"__{_name}__", _misuse(_what))


@overload
def stateful(target: type[T], /) -> type[T]: ...
@overload
def stateful(*, checkpoint_every: int = 1, **options: Unpack[Changes]) -> Callable[[type[T]], type[T]]: ...
def stateful(target: type[Any] | None = None, /, *, checkpoint_every: int = 1, **options: Unpack[Changes]) -> Any:
    """Make a class stateful: `@stateful`, or `@stateful(gpus=0.5, checkpoint_every=5)`.

    `checkpoint_every`: the state is saved with every so many calls that may change it. A larger number saves time, and
    costs that many calls again after a crash. The other options are those of tasks: resources are held from the first
    call to the last, `retries` and `timeout` are of each call. Raises BadOption, DefinitionError.
    """
    settings = Options().changed(**options)
    if not isinstance(checkpoint_every, int) or isinstance(checkpoint_every, bool) or checkpoint_every < 1:
        raise BadOption(f"checkpoint_every={checkpoint_every!r} has to be a whole number of at least 1.")
    if settings.key is not None:
        raise DefinitionError("key= belongs to one call of a task, and not to a class.")
    of_tasks = [
        name for name in ("at_most_once", "transactional", "undo", "heartbeat_timeout") if getattr(settings, name)
    ]
    if of_tasks:
        raise DefinitionError(f"{of_tasks[0]}= is for tasks: calls on a stateful object are made again to rebuild it.")
    if settings.cache is not None:
        raise DefinitionError("cache= is for tasks: a call on a stateful object depends on more than its arguments.")
    if not settings.checkpoint:
        raise DefinitionError("checkpoint=False is for tasks: what is called on a stateful object is recorded.")

    def decorate(target: type[Any]) -> type[Any]:
        if not isinstance(target, type):
            raise DefinitionError(f"@stateful takes a class, not {target!r}. Use @task for functions.")
        found = Stateful(target, Settings(settings, checkpoint_every))
        own = target.__dict__.get("__new__")
        target.__new__ = _New(found, None if own is None else own.__func__)
        target.__stateful__ = found
        return target

    return decorate if target is None else decorate(target)


class _New:
    """The `__new__` of a decorated class: in a body a proxy, elsewhere what it was. An object instead of a function, so
    that a class without a name of its own can be pickled with it, by value."""

    def __init__(self, stateful: Stateful, own: Callable[..., Any] | None) -> None:
        self._stateful = stateful
        self._own = own
        # What help() and editors show; `inspect` takes the first parameter for the class.
        self.__name__ = "__new__"
        if stateful._signature is not None:
            with suppress(ValueError):
                first = inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)
                parameters = [first, *stateful._signature.parameters.values()]
                self.__signature__ = stateful._signature.replace(parameters=parameters)

    def __call__(self, cls: type[Any], /, *args: Any, **kwargs: Any) -> Any:
        target = self._stateful.function
        scope = current_scope.get()
        if scope is not None and cls is target:
            return scope.body.create(scope, self._stateful, args, kwargs)
        if scope is not None and "__stateful__" not in vars(cls):
            raise DefinitionError(
                f"{cls.__name__} derives from {target.__name__}, which is stateful, and its own objects would be lost"
                " with the body: decorate it with @stateful, too."
            )
        original = super(target, cls).__new__ if self._own is None else self._own
        if original is object.__new__:
            if (args or kwargs) and cls.__init__ is object.__init__:
                raise TypeError(f"{cls.__name__}() takes no arguments")
            return original(cls)
        return original(cls, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"_stateful": self._stateful, "_own": self._own}


def _signature_of(target: type[Any]) -> Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _bind(signature: Signature | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadArguments(f"{name}{signature}: {error}.") from None
