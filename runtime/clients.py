"""Which client this process uses: within a task the way to the controller, elsewhere the session, started at first use.

May import nothing of ours but errors and runtime modules, the heavy ones inside of functions.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from dagengine.errors import RuntimeStopped
from dagengine.runtime import current

if TYPE_CHECKING:
    from dagengine.runtime.session import Session

_lock = threading.RLock()
_session: Session | None = None
_within: Any = None


def client() -> Any:
    """The client that calls of this thread go to."""
    if current.link is not None:
        return _within_task()
    return _session or start()


def _within_task() -> Any:
    global _within
    if _within is None or _within.pid != os.getpid():
        from dagengine.runtime.client import TaskClient

        _within = TaskClient()
    return _within


def running() -> bool:
    """Whether there is a runtime already."""
    return current.link is not None or _session is not None


def start(workers: int | None = None, **settings: Any) -> Session:
    """Start the session of this process. Raises RuntimeStopped within a task, and if one is running."""
    global _session
    from dagengine.runtime.session import Session

    if current.link is not None:
        raise RuntimeStopped("a task uses the runtime that runs it: there is nothing to start")
    with _lock:
        if _session is not None:
            if workers is None and not settings:
                return _session
            raise RuntimeStopped("the runtime is running: stop() it before you start it with other settings")
        _session = Session.open(workers, stopped=_forget, **settings)
        return _session


def stop() -> None:
    """End the session, if there is one: tasks that run are killed, refs that are left can't be read any more."""
    session = _session
    if session is not None:
        session.stop()


def _forget(session: Session) -> None:
    global _session
    with _lock:
        if _session is session:
            _session = None


def _in_child() -> None:
    # A fork has no threads of its parent's: the session there is a dead copy, which must not free or end anything.
    global _session, _within, _lock
    _lock = threading.RLock()
    if _session is not None:
        _session.abandon()
    _session = _within = None


atexit.register(stop)
os.register_at_fork(after_in_child=_in_child)
