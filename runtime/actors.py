"""An actor in its worker: an instance of the user's class, which stays here between calls.

Plain methods run on the thread that calls; async ones, concurrent or not, on one event loop of the actor's, on a thread
of its own, so that what they have begun there goes on between calls.

State. What `state` takes and `restored` brings back, in this order:

    checkpoint() and restore(state) of the class: what the one returns is what the other gets. A restore that is a
        classmethod (or static) makes the instance; a plain method is called on a new one whose __init__ did not run.
    the instance's own __getstate__, and __setstate__ or else its attributes: as pickle does, but without naming the
        class, whose name may lead to what a decorator has made of it
    the whole instance, pickled: where the class says itself how it is pickled, or is made of a list or dict

May import nothing of ours but errors.
"""

from __future__ import annotations

import copyreg
import inspect
import threading
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Actor:
    """`name`: of its class."""

    def __init__(self, instance: Any) -> None:
        self.name = type(instance).__qualname__.rpartition(".")[2]
        self._instance = instance
        self._async: dict[str, bool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    @classmethod
    def constructed(cls, kind: Callable[..., Any], arguments: Arguments) -> Actor:
        """A new one, as the class makes it."""
        args, kwargs = arguments
        return cls(kind(*args, **kwargs))

    @classmethod
    def restored(cls, kind: Any, state: Any) -> Actor:
        """One with the state that `state` has returned."""
        form, content = state
        if form == "whole":
            return cls(content)
        if form == "checkpoint":
            if isinstance(inspect.getattr_static(kind, "restore", None), (classmethod, staticmethod)):
                return cls(kind.restore(content))
            instance = kind.__new__(kind)
            instance.restore(content)
            return cls(instance)
        instance = kind.__new__(kind)
        _set_state(instance, content)
        return cls(instance)

    def state(self) -> tuple[str, Any]:
        """What it takes to make another one like it."""
        instance = self._instance
        kind = type(instance)
        if hasattr(kind, "checkpoint") and hasattr(kind, "restore"):
            return "checkpoint", instance.checkpoint()
        if _pickles_plainly(kind):
            return "attributes", instance.__getstate__()
        return "whole", instance

    # ---- calls --------------------------------------------------------------------------------

    def is_async(self, method: str) -> bool:
        """Whether calls of the method run on the loop."""
        found = self._async.get(method)
        if found is None:
            function = getattr(type(self._instance), method, None)
            found = self._async[method] = inspect.iscoroutinefunction(function)
        return found

    def call(self, method: str, arguments: Arguments) -> Any:
        """Call the method, and wait for its end."""
        args, kwargs = arguments
        value = getattr(self._instance, method)(*args, **kwargs)
        if type(value) is CoroutineType:
            return self._wait_for(value)
        return value

    async def call_later(self, method: str, arguments: Arguments) -> Any:
        """Call an async method, on the loop."""
        args, kwargs = arguments
        return await getattr(self._instance, method)(*args, **kwargs)

    def _wait_for(self, call: Coroutine[Any, Any, Any]) -> Any:
        from concurrent.futures import Future

        ended: Future[Any] = Future()

        async def run() -> None:
            try:
                ended.set_result(await call)
            except BaseException as error:
                ended.set_exception(error)

        loop = self.loop()
        begun: list[asyncio.Task[None]] = []

        def begin() -> None:
            begun.append(loop.create_task(run()))

        def interrupt() -> None:
            if begun:
                begun[0].cancel()
            else:  # the interrupt came before `begin` was handed over
                call.close()
                ended.set_result(None)

        try:
            loop.call_soon_threadsafe(begin)
            return ended.result()
        except BaseException:
            if not ended.done():
                # It is we who were interrupted: the call is, too, and may clean up.
                loop.call_soon_threadsafe(interrupt)
                ended.exception()
            raise

    def loop(self) -> asyncio.AbstractEventLoop:
        """The actor's event loop. It runs from here on, until the process ends."""
        with self._starting:
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=f"{self.name}-loop", daemon=True).start()
            return self._loop


def _pickles_plainly(kind: Any) -> bool:
    return (
        kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not issubclass(kind, (list, dict))
        and kind not in copyreg.dispatch_table
    )


def _set_state(instance: Any, state: Any) -> None:
    if state is None:
        return
    setter = getattr(instance, "__setstate__", None)
    if setter is not None:
        setter(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        instance.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(instance, name, value)
