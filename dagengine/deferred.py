"""`task.defer(...)` inside of a task: a call that is made after it, if the task returns it.

What is deferred is no value yet: it may be returned, alone or in any container, or be an argument of another deferred
call. Its step is recorded in one commit with the completion of the task that returned it. Outside of a run, `defer` is
the plain call, so that a task that defers is still a function that can be tested.

May import everything of the workflow layer that a task may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dagengine.errors import DefinitionError
from dagengine.functions import refer
from dagengine.refs import Misused
from dagengine.runtime import current
from dagengine.runtime.growth import Later, LaterFunction
from dagengine.scopes import current_scope
from dagengine.values import encode

if TYPE_CHECKING:
    from dagengine.tasks import Task


class Deferred(Misused, Later):
    """The promise of a value that a call will have which is made after the task that returns this."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<deferred {self.function.name}>"

    def _hint(self, what: str) -> str:
        return (
            f"{self.function.name} is deferred: it is called after this task, so you can't {what}. "
            "Return it, or hand it to another deferred call."
        )


def defer(task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call, to be made after the task that this is called in; outside of a run, what it returns.

    Raises BadArguments, Unpicklable; DefinitionError in the body of a workflow.
    """
    scope = current_scope.get()
    if scope is not None:
        raise DefinitionError(f"{task.name}.defer() in the body of {scope.path}: there, call {task.name}(...).")
    if current.context.get() is None:
        return task.function(*args, **kwargs)
    task.check_arguments(args, kwargs)
    said = (task.settings.retry_on, task.settings.version)
    known = _known.get(task.function)
    if known is None or known[0] != said:
        from dagengine.code.fingerprints import fingerprint  # reads source: of no use to whoever defers nothing

        known = _known[task.function] = (said, refer(task).to_json(), fingerprint(task))
    _, reference, code = known
    encoded = encode((args, kwargs), f"the call {task.name}.defer", "arguments")
    function = LaterFunction(task.name, reference, task.options_json(), code)
    return Deferred(current.task.get(), function, encoded, task.settings.key)


_known: WeakKeyDictionary[Any, tuple[object, dict[str, Any], str]] = WeakKeyDictionary()
"""By function: the options that its reference and fingerprint are made with, and these. One that travels by value is
pickled once, however often it is deferred."""
