"""What the code of a task, or of a workflow's body, may know of its place in the run.

May import model and the runtime's slot for the current attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagengine.scopes import current_scope


@dataclass(frozen=True, slots=True)
class Context:
    """Where this code runs. Outside of a run: no run id, and the first attempt.

    idempotency_key: the same for all attempts at this step, also after a crash and on another machine; hand it to
        services that count a request with the same key once
    """

    run_id: str | None
    workflow: str | None
    key: str | None
    task: str | None
    attempt: int
    idempotency_key: str | None


def context() -> Context:
    """The context of the code that calls this."""
    from dagengine.runtime.current import context as current

    facts = current.get()
    if facts is not None:
        return Context(**facts)
    scope = current_scope.get()
    if scope is not None:
        return Context(scope.body.run_id, scope.body.workflow_name, scope.path, None, 1, None)
    return Context(None, None, None, None, 1, None)
