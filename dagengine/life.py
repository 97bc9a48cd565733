"""A run as this process follows it: also while it waits without a process, when no driver has it.

Kept small: there may be tens of thousands that wait. May import model.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dagengine.model import RunRecord, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagengine.driver import Driver
    from dagengine.workflows import Workflow


_LOCK = threading.Lock()  # for all: it is held for a moment


class Life:
    """From when this process begins or takes up the run until it has ended, or the process has let go of it for good.

    driver: who has it; None while it waits
    load: its workflow; code: the digest of the pack that it goes on with
    notices: one line each, for whoever watches; only ever added to
    """

    __slots__ = (
        "_ended",
        "code",
        "driver",
        "error",
        "load",
        "notices",
        "number",
        "over",
        "run_id",
        "started_at",
        "state",
        "workflow",
    )

    def __init__(self, record: RunRecord, load: Callable[[], Workflow[..., Any]]) -> None:
        self.run_id = record.id
        self.number = record.number
        self.workflow = record.workflow
        self.started_at = record.started_at or record.created_at
        self.code = record.code
        self.load = load
        self.state = RunState.RUNNING
        self.over = False
        self._ended: threading.Event | None = None  # made for who waits: it is larger than all the rest
        self.error: BaseException | None = None
        self.notices: list[str] = []
        self.driver: Driver | None = None

    def end(self, state: RunState, error: BaseException | None = None) -> None:
        self.state = state
        self.error = error
        self.driver = None if state is RunState.WAITING else self.driver
        with _LOCK:
            self.over = True
            ended = self._ended
        if ended is not None:
            ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the end, at most `timeout` seconds; whether it has come."""
        if self.over:
            return True
        with _LOCK:
            if self._ended is None and not self.over:
                self._ended = threading.Event()
            ended = self._ended
        return self.over or (ended is not None and ended.wait(timeout))
