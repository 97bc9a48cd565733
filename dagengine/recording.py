"""What a run is recorded with when it begins: its workflow, arguments, code, and how it was begun.

May import everything of the workflow layer that a driver may.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.calls import encode_call
from dagengine.code.packing import keep_code
from dagengine.errors import BadArguments
from dagengine.functions import Reference, main_file, refer
from dagengine.identity import new_id
from dagengine.model import NewRun, PayloadInput

if TYPE_CHECKING:
    from dagengine.storage.interface import ArtifactStore, Store
    from dagengine.workflows import Workflow

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def entry_of(workflow: Workflow[..., Any]) -> Reference:
    """How another process finds the workflow: a script's own by the script's path, a notebook's by value."""
    file = main_file()
    if workflow.__module__ == "__main__" and file is not None and "<locals>" not in workflow.__qualname__:
        return Reference(Path(file).stem, workflow.__qualname__, file)
    return refer(workflow)


def new_run(
    store: Store,
    artifacts: ArtifactStore,
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    run_id: str | None,
    refresh: Sequence[str] = (),
) -> NewRun:
    """The run as it is to be recorded; its large arguments and its code are durable then.

    refresh: keys of steps that are not to be taken from the cache. Raises BadArguments, Unpicklable, StoreError.
    """
    if run_id is not None and (
        not 1 <= len(run_id) <= 128 or not set(run_id) <= ID_CHARACTERS or not run_id[0].isalnum()
    ):
        raise BadArguments(f"run id {run_id!r}: use 1 to 128 letters, digits, dots, dashes, underscores.")
    workflow.check_arguments(args, kwargs)

    def keep(encoded: Any) -> None:
        artifacts.put(encoded.digest(), encoded.size, encoded.to_bytes())

    call, inputs = encode_call(args, kwargs, f"the call {workflow.name}", keep)
    payloads = tuple(item for item in inputs if isinstance(item, PayloadInput))
    facts = {**facts_of(workflow), **keep_code(store, workflow)}
    if refresh:
        facts["refresh"] = list(refresh)
    return NewRun(run_id or new_id(), workflow.name, entry_of(workflow).to_json(), call, payloads, time.time(), facts)


def facts_of(workflow: Workflow[..., Any]) -> dict[str, Any]:
    """What a new run says of how it was begun, and of its workflow's options."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "host": platform.node(),
        "cwd": str(Path.cwd()),
        "pid": os.getpid(),
    }
    if workflow.timeout is not None:
        facts["timeout"] = workflow.timeout
    if workflow.compensate:
        facts["compensate"] = True
    if workflow.tags:
        facts["tags"] = dict(workflow.tags)
    return facts


def record_run(
    store: Store,
    artifacts: ArtifactStore,
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    run_id: str | None = None,
    refresh: Sequence[str] = (),
    also: Callable[[Any], None] | None = None,
    facts: dict[str, Any] | None = None,
) -> str:
    """Record a run that some process is to begin later, and return its id. `also`: as of `Store.create_run`."""
    new = new_run(store, artifacts, workflow, args, kwargs, run_id=run_id, refresh=refresh)
    new.facts.update(facts or {})
    store.create_run(new, None, also=also)
    return new.id
