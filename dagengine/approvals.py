"""Asking a person: a run waits until somebody says yes, or no, and records who it was and why.

Approvals are events under a prefix of their own: what is sent with `signal` is never taken for one.
May import errors, model, moments, refs and signals; the engine when one is answered in this process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagengine.errors import Rejected
from dagengine.model import OutsideStep, RunRecord, StepKind, StepRecord, StepState
from dagengine.moments import Duration, check_name, start_event
from dagengine.refs import Ref, body_of

if TYPE_CHECKING:
    from dagengine.signals import Post
    from dagengine.storage.interface import Store

PREFIX = "approval:"

DEFAULT_NAME = "approval"

LOOKED_THROUGH = 10_000
"""Unfinished steps of a run that are looked through for those that ask for approval."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What somebody answered. `at`: when, in seconds since the epoch."""

    approved: bool
    by: str
    why: str
    at: float


def wait_approval(name: str = DEFAULT_NAME, timeout: Duration | None = None) -> Approval:
    """Wait for somebody's yes: `dagengine approve RUN [NAME]`. Raises Rejected for a no, and EventTimeout.

    In an async body: `aio.wait_approval`.
    """
    ref = start_approval(name, timeout)
    return answered(name, ref._key, body_of(ref).wait([ref])[0].value())


def asked_by(step: StepRecord | OutsideStep) -> str | None:
    """The name of what the step asks approval for, if that is what it does. Its key says so."""
    name, _, kind = step.key.rpartition("/")[2].rpartition("[")[0].rpartition(".")
    return name if step.kind is StepKind.EVENT and kind == "approval" else None


def asked_for(store: Store, run: RunRecord) -> list[str]:
    """The names of what the run asks approval for now, each once, in the order in which it asked."""
    names = map(asked_by, store.steps(run.number, states=[StepState.WAITING], limit=LOOKED_THROUGH))
    return list(dict.fromkeys(name for name in names if name is not None))


def start_approval(name: str, timeout: Duration | None) -> Ref:
    check_name(name)
    return start_event(PREFIX + name, name, timeout, kind="approval")


def answered(name: str, key: str, answer: Approval) -> Approval:
    """The answer, if it is a yes."""
    if answer.approved:
        return answer
    why = f": {answer.why}" if answer.why else ""
    raise Rejected(f"{answer.by} rejected {name}{why}", key=key, by=answer.by, why=answer.why, at=answer.at)


def approve(run_id: str, name: str = DEFAULT_NAME, *, by: str | None = None, why: str = "") -> None:
    """Say yes to what the run waits for. `by`: the user, if nobody else is named. Raises as `dagengine.signal`."""
    _answer(run_id, name, answer_of(True, by, why))


def reject(run_id: str, name: str = DEFAULT_NAME, *, by: str | None = None, why: str = "") -> None:
    """Say no: `wait_approval` raises Rejected. Otherwise as `approve`."""
    _answer(run_id, name, answer_of(False, by, why))


def _answer(run_id: str, name: str, answer: Approval) -> None:
    from dagengine.engine import current_engine

    send_answer(current_engine().post, run_id, name, answer)


def answer_of(approved: bool, by: str | None, why: str) -> Approval:
    """An answer of now. `by`: the user, if nobody else is named."""
    return Approval(approved, by or _user(), why, time.time())


def send_answer(post: Post, run_id: str, name: str, answer: Approval) -> int | None:
    """The answer to whoever waits for approval of `name` in that run, or will. Its number among the run's signals."""
    from dagengine.signals import deliver

    return deliver(post, run_id, name, answer, prefix=PREFIX)


def answers_before(store: Store, run: RunRecord, name: str, number: int | None) -> int | None:
    """How many answers to the same question came before answer `number` and are not taken either: the first one counts.

    None where that answer is taken already.
    """
    from dagengine.storage import signals

    kept = [signal.number for signal in signals.untaken(store, run.number)[1] if signal.name == PREFIX + name]
    return kept.index(number) if number in kept else None


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have a number and no name
        import os

        return f"uid {os.getuid()}"
