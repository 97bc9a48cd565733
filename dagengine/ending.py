"""Waiting for the end of a run that another process works on, without polling where that can be had.

    owner on this machine    asked over its control socket, which answers when the run ends
    it does not answer       its pidfd, which becomes readable when the process ends
    owner elsewhere          the store, read again ever more rarely, up to two seconds apart: nothing here can hear of the end
    nobody, while it waits   the same: for a timer, a signal or another run
    nobody yet, but queued   a server of this machine, asked as an owner is; or the store, in the same way

The store alone says how the run ended; all of these only say when to look. May import everything of the workflow layer but
the engine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import threading
import time
from typing import TYPE_CHECKING

from dagengine.continuing import last_of
from dagengine.control import NoAnswer, ask, process_ends
from dagengine.model import RunRecord, RunState
from dagengine.serving.hints import wait_at_servers
from dagengine.serving.submission import is_expected
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

ASK_AGAIN = 30.0
"""Seconds of one wait at the socket. The owner can't see that a client went away; so its waits end by themselves."""

FIRST_LOOK, LOOK_AGAIN = 0.1, 2.0
"""Seconds between two looks at a run whose owner can't be heard of: the first, doubled up to the last."""


def wait_for_end(store: Store, settings: Settings, run_id: str, timeout: float | None = None) -> RunRecord:
    """The run as it is when nobody works on it any more, or the last of those that it went on in.

    Raises TimeoutError after `timeout` seconds.
    """
    until = None if timeout is None else time.monotonic() + timeout
    answered = False
    look = FIRST_LOOK
    while True:
        run = store.find_run(run_id)
        idle = run_state(run) is not RunState.RUNNING or run.owner is None
        if idle and run.state is not RunState.WAITING and not is_expected(store, run_id):
            seen, run = run, store.find_run(run_id)
            if (run.state, run.owner) != (seen.state, seen.owner):
                continue  # it was begun, or has ended, between the look at the run and the one at its queue
            after = last_of(store, run)
            if after.id == run.id:
                return run
            run_id, answered = after.id, False
            continue
        left = ASK_AGAIN if until is None else until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        left = min(left, ASK_AGAIN)
        if idle or run.owner is None:
            wait_at_servers(settings.control, run_id, min(left, LOOK_AGAIN))
        elif run.owner.host != platform.node():
            time.sleep(min(left, look))
            look = min(2 * look, LOOK_AGAIN)
        elif answered or not _ask(settings, run, left):
            # It answers, and yet the record says that it works on the run: it let go of it without being able to say so.
            _wait_for_process(run, min(left, LOOK_AGAIN) if answered else left)
            answered = False
        else:
            answered = True


def _ask(settings: Settings, run: RunRecord, seconds: float) -> bool:
    """Whether the owner says that it has ended its work on the run; False also when nobody answers."""
    assert run.owner is not None
    began = time.monotonic()
    try:
        ask(settings.control, run.owner.id, {"verb": "wait", "run": run.id, "timeout": seconds}, seconds + 5.0)
    except (NoAnswer, TimeoutError):
        return False
    return time.monotonic() - began < seconds


def _wait_for_process(run: RunRecord, seconds: float) -> None:
    assert run.owner is not None
    watch = process_ends(run.owner.pid, run.owner.start_time)
    if watch is None:
        time.sleep(min(seconds, LOOK_AGAIN))
        return
    try:
        ends = select.poll()  # `select` takes no descriptor above 1,023
        ends.register(watch, select.POLLIN)
        ends.poll(seconds * 1_000)
    finally:
        os.close(watch)


def ending(store: Store, settings: Settings, run_id: str) -> threading.Event:
    """An event that is set when nobody works on the run any more, or that can't be known."""
    over = threading.Event()

    def wait() -> None:
        with contextlib.suppress(Exception):  # a store that is closed under us: the command has ended
            wait_for_end(store, settings, run_id)
        over.set()

    threading.Thread(target=wait, name="ending", daemon=True).start()
    return over
