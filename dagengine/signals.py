"""Sending something to a run: kept at once, given to the step that waits for it, in the order of sending.

A signal is in the store before anybody is told. Then whoever has the run is: its owner on this machine over the control
socket, elsewhere by the database, and if nobody has it, who let go of it and whoever serves the store. Nobody who is told
is needed: the run finds what was sent when it is taken up.

May import base modules, advice, calls, control, moments, scopes, serving's hints and storage; the engine when one
is sent by `signal`.
"""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.control import NoAnswer, ask
from dagengine.errors import BadArguments, DefinitionError, RunExists
from dagengine.identity import new_id
from dagengine.model import INLINE_LIMIT, RunRecord, RunState, Value
from dagengine.moments import check_name
from dagengine.scopes import current_scope
from dagengine.units import MiB, short_id, show_size
from dagengine.values import encode

if TYPE_CHECKING:
    from dagengine.storage.interface import ArtifactStore, Store

PAYLOAD_LIMIT = 256 * MiB
"""What a signal may carry. Above it, the data belongs where both sides find it, and the signal says where."""

ID_LIMIT = 200  # characters of an id of a signal's
_OVER = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Post:
    """Where signals go: a store with its artifacts, and the folder of the sockets of this machine's engines."""

    store: Store
    artifacts: ArtifactStore
    control: Path


def signal(run_id: str, name: str, payload: Any = None, *, id: str | None = None) -> bool:  # noqa: A002 - the sender's word
    """Send `payload` to the run whose id begins with `run_id`, under a name that one of its steps waits for, or will.

    id: the same one again is no second signal; False says that it was one. Raises BadArguments, RunNotFound; RunExists
    if the run is over. Uses the open engine's store, or the configured one. In a workflow, signal from a task.
    """
    from dagengine.engine import current_engine

    return current_engine().signal(run_id, name, payload, signal_id=id)


def send(post: Post, run_id: str, name: str, payload: Any, *, signal_id: str | None = None, prefix: str = "") -> bool:
    """As `signal`. `prefix`: sets apart names that are none of the user's."""
    return deliver(post, run_id, name, payload, signal_id=signal_id, prefix=prefix) is not None


def deliver(
    post: Post, run_id: str, name: str, payload: Any, *, signal_id: str | None = None, prefix: str = ""
) -> int | None:
    """As `send`; the signal's number in its run, None where one with this id was sent before."""
    check_name(name)
    if current_scope.get() is not None:
        raise DefinitionError(
            f"signal {name!r} in the body of a workflow would be sent at each replay. Send it in a task."
        )
    if signal_id is not None and not (0 < len(signal_id) <= ID_LIMIT and signal_id.isprintable()):
        raise BadArguments(f"id={signal_id!r:.100}: use 1 to {ID_LIMIT} printable characters.")
    run = post.store.find_run(run_id)
    if run.state in _OVER:
        raise over(post.store, run)
    value = _kept(post, payload, name)
    from dagengine.storage import signals

    number = signals.send(
        post.store, run.number, run.id, signal_id=signal_id or new_id(), name=prefix + name, value=value, at=time.time()
    )
    tell(post.store, post.control, post.store.find_run(run.id))
    return number


def over(store: Store, run: RunRecord) -> RunExists:
    from dagengine.advice import for_run, sentence

    short = short_id(run.id)
    if run.state is RunState.SUCCEEDED:
        return RunExists(f"run {short} has succeeded: it waits for nothing any more.", run_id=run.id)
    return RunExists(f"run {short} has ended ({run.state}). {sentence(for_run(store, run))}", run_id=run.id)


def _kept(post: Post, payload: Any, name: str) -> Value:
    if isinstance(payload, (bytes, str, bytearray, memoryview)) and len(payload) > PAYLOAD_LIMIT:
        raise too_large(name, len(payload))  # before it is copied
    encoded = encode(payload, f"the payload of signal {name!r}", "payload")
    if encoded.size > PAYLOAD_LIMIT:
        raise too_large(name, encoded.size)
    digest, data = encoded.digest(), encoded.to_bytes()
    if encoded.size <= INLINE_LIMIT:
        return Value(digest, encoded.size, data)
    post.artifacts.put(digest, encoded.size, data)
    return Value(digest, encoded.size)


def too_large(name: str, size: int) -> BadArguments:
    return BadArguments(
        f"signal {name!r} carries {show_size(size)}, and may {show_size(PAYLOAD_LIMIT)}. Store the data, and send where it is."
    )


def tell(store: Store, control: Path, run: RunRecord) -> None:
    """Something came for the run: say so to whoever has it, or wakes it."""
    if run.state is RunState.RUNNING and run.owner is not None:
        here = run.owner.host == platform.node()
        tell_process(store, control if here else None, run.owner.id, {"verb": "signal", "run": run.id})
        return
    if run.state is RunState.WAITING:
        from dagengine.serving.hints import hint

        rouse(store, control, run)
        hint(store, control)


def rouse(store: Store, control: Path, run: RunRecord) -> None:
    """Tell the engine that let go of the run to look at it."""
    process = left_by(store, run)
    if process is not None:
        tell_process(store, control, process, {"verb": "wake", "run": run.id})


def left_by(store: Store, run: RunRecord) -> str | None:
    """The id of the process that let go of a run that waits."""
    from dagengine.storage.sleepers import sleeper

    found = sleeper(store, run.number) if run.state is RunState.WAITING else None
    return None if found is None else found.process


def taken_over(post: Post, run_id: str, process: str) -> None:
    """Tell the process that let go of the run that it is another one's now: nobody there is to wait for it any more."""
    tell_process(post.store, post.control, process, {"verb": "wake", "run": run_id})


def rouse_cancelled(store: Store, control: Path, run: RunRecord) -> None:
    """The run waited without a process when it was cancelled: nobody has to wake it any more."""
    from dagengine.storage.sleepers import forget

    rouse(store, control, run)
    forget(store, run.number)


def tell_process(store: Store, control: Path | None, process: str, what: dict[str, Any]) -> None:
    """Tell an engine, by its socket on this machine, or else where the database can do that, to look."""
    if control is not None:
        with contextlib.suppress(NoAnswer, TimeoutError):
            ask(control, process, what)
            return
    if store.lease is not None:
        from dagengine.storage.sleepers import notify

        notify(store, process)
