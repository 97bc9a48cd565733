"""Asking a run to stop for good. The request is recorded first, then who has to know is told: its queue, its parent, its owner.

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import replace
from pathlib import Path

from dagengine.afterwards import end_without_driver, tell_parent
from dagengine.below import cancel_below
from dagengine.control import NoAnswer, ask
from dagengine.identity import is_alive, this_process
from dagengine.model import RunRecord, RunState
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun
from dagengine.views import run_state


def cancel_run(store: Store, control: Path, run: RunRecord) -> RunState:
    """Cancel the run and its children. CANCELLED; RUNNING, if its owner was asked; or the state in which it had ended.

    control: the folder of the control sockets. Raises RunOwned if somebody takes it up in this moment.
    """
    state = _cancel_one(store, control, run)
    if state is RunState.CANCELLED:  # else its owner sees to its children; also what a cancel has left that was cut off
        for child in cancel_below(store, run, time.time()):
            _cancel_one(store, control, child)
    return state


def request(store: Store, control: Path, run: RunRecord) -> RunState:
    """Record that the run is to stop; its state then. One that ends by it leaves its queue, wakes its parent and sleeps no more."""
    state = store.request_cancel(run.id, time.time())
    if state is RunState.CANCELLED:
        from dagengine.serving.submission import dequeue

        dequeue(store, control, run.id)
        if run.parent is not None:
            tell_parent(store, control, run.parent[0])
    # One that was worked on when it was looked at may have been let go of since: cancelled without an owner, it slept.
    if run.state is RunState.WAITING or (run.state is RunState.RUNNING and state is RunState.CANCELLED):
        from dagengine.signals import rouse_cancelled

        rouse_cancelled(store, control, replace(run, state=RunState.WAITING))
    return state


def _cancel_one(store: Store, control: Path, run: RunRecord) -> RunState:
    state = request(store, control, run)
    if state is not RunState.RUNNING:
        return state
    if run_state(run) is RunState.CRASHED:
        return _cancel_crashed(store, control, run)
    if run.owner is not None and run.owner.host == platform.node():
        with contextlib.suppress(NoAnswer, TimeoutError):
            # If nobody answers, the owner is about to end: whoever takes the run next finds the request.
            ask(control, run.owner.id, {"verb": "cancel", "run": run.id})
    return state


def _cancel_crashed(store: Store, control: Path, run: RunRecord) -> RunState:
    """Nobody is left to be asked: take the run over, and end it."""
    claim = store.claim(run.id, this_process(), is_alive, reopen=False)
    end_without_driver(store, control, claim, FinishRun(RunState.CANCELLED, time.time()))
    return RunState.CANCELLED
