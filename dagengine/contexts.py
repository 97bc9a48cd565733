"""What the code of a task, or of a workflow's body, may know of its place in the run; and what a task may do there so
that it counts once (dagengine/effects.py).

May import model, scopes, effects, transactions and the runtime's slot for the current attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dagengine.scopes import current_scope

if TYPE_CHECKING:
    from dagengine.effects import PendingType
    from dagengine.storage.outbox import TaskConnection

T = TypeVar("T")
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Context:
    """Where this code runs. Outside of a run: no run id, and the first attempt.

    idempotency_key: the same for all attempts at this step, also after a crash and on another machine; hand it to
        services that count a request with the same key once
    heartbeat_timeout: the task's
    """

    run_id: str | None
    workflow: str | None
    key: str | None
    task: str | None
    attempt: int
    idempotency_key: str | None
    heartbeat_timeout: float | None = None

    def once(self, name: str, function: Callable[[], T]) -> T:
        """What `function()` returns; if an attempt at this step has called it before, what it returned then.

        The result is durable when this returns. An exception is not remembered. Between the call and its being noted
        there is a moment: a crash just there has the function called again, so hand it the idempotency key.
        """
        from dagengine.effects import once

        return once(name, function)

    def checkpoint(self, state: Any) -> None:
        """Keep the state of a long task, in place of the one before: the next attempt gets it from `restored`. Durable
        when this returns; forgotten when the step has succeeded."""
        from dagengine.effects import checkpoint

        checkpoint(state)

    def restored(self, default: Any = None) -> Any:
        """What an earlier attempt at this step has given to `checkpoint` last."""
        from dagengine.effects import restored

        return restored(default)

    @property
    def connection(self) -> TaskConnection:
        """A SQLAlchemy connection, in a transaction that begins with its first use and is committed when the task has
        returned, together with what it returned. Of tasks with `transactional=`."""
        from dagengine.transactions import connection

        return connection()

    def heartbeat(self, progress: Any = None) -> None:
        """Say that the task lives, and how far it is: a number, a text or a small dict, for people. Call it as often as
        you like; few are sent. Outside of a run, nothing happens."""
        from dagengine.effects import heartbeat

        heartbeat(progress, self.heartbeat_timeout)

    def external(
        self,
        submit: Callable[[str], H],
        poll: Callable[[H], T | PendingType],
        cancel: Callable[[H], object] | None = None,
        *,
        find: Callable[[str], H | None] | None = None,
        every: float = 10.0,
        name: str = "job",
    ) -> T:
        """The result of a job that another system does: `submit(key)` starts it and returns a handle; `poll(handle)`
        returns `Pending` or the result.

        Another attempt, after a crash too, goes on with the same job: by its handle; if the crash came between the
        submission and its being noted, by `find(key)`, which returns a handle or None; without that, it submits
        again with the same key. `cancel(handle)` is called when the run is cancelled while this waits, and has the
        task's grace time. `every`: seconds between two polls. `name`: tells jobs of one task apart.
        """
        from dagengine.effects import external

        base = self.idempotency_key or "outside-of-a-run"
        key = base if name == "job" else f"{base}/{name}"
        return external(key, submit, poll, cancel=cancel, find=find, every=every, name=name)


def context() -> Context:
    """The context of the code that calls this."""
    from dagengine.runtime.current import context as current

    facts = current.get()
    if facts is not None:
        return Context(**{name: facts[name] for name in Context.__slots__ if name in facts})
    scope = current_scope.get()
    if scope is not None:
        return Context(scope.body.run_id, scope.body.workflow_name, scope.path, None, 1, None)
    return Context(None, None, None, None, 1, None)
