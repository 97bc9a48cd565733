"""What an engine answers to another process of the same user, which asks through the control socket about a run.

On a thread of the control server's: whatever is to be known of a run's core, the engine's thread is asked.

May import everything of the workflow layer but the engine, which it knows by the few methods that it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dagengine.changes import LET_GO, answer_change
from dagengine.core.events import CancelRequested
from dagengine.core.states import Phase
from dagengine.errors import RuntimeStopped

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine

Answer = TypeVar("Answer")

WAITS_MAX = 200
"""Steps of which an answer says what they wait for; it has to fit into a message of the control socket's."""

ANSWER_SECONDS = 4.0
"""For the engine's thread to answer a question: less than who asks over the control socket waits."""


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """A request of another process, on a thread of the control server's."""
    driver = engine.driver_of(str(request.get("run")))
    if driver is None:
        if request.get("verb") in ("mark", "pause"):
            return LET_GO
        found = _answer_asleep(engine, str(request.get("verb")), str(request.get("run")), request.get("timeout"))
        if found is not None:
            return found
        return {"error": "this process does not work on that run"}
    if request.get("verb") == "cancel":
        engine.tell(driver, [CancelRequested()])
    elif request.get("verb") == "signal":
        engine.tell(driver, driver.outside.hint)
    elif request.get("verb") == "wait":
        driver.life.wait(request.get("timeout"))  # bounded by the client: one that went away is not known of
        return {"state": str(driver.life.state)}
    elif request.get("verb") in ("mark", "pause"):
        return answer_change(engine, driver, request)
    elif request.get("verb") == "waits":
        return _waits(engine, driver)
    elif request.get("verb") == "placement":
        return _placement(engine, driver, int(request["seq"]))
    else:
        return {"error": "unknown verb"}
    return {"state": str(driver.state)}


def _answer_asleep(engine: Engine, verb: str, run_id: str, timeout: float | None) -> dict[str, Any] | None:
    """The same for a run that waits without a process."""
    life = engine.sleeping.life(run_id)
    if life is None:
        return None
    if verb == "wait":
        life.wait(timeout)
    elif verb in ("signal", "wake", "cancel"):  # to cancel: it was asked for when the run still had a process
        engine.sleeping.look(run_id)
    return {"state": str(life.state)}


def _waits(engine: Engine, driver: Driver) -> dict[str, Any]:
    """What the run's unfinished steps wait for, as many of them as fit into an answer."""
    from dagengine.waits import waits_of

    runtime = engine.runtime.waits()
    found = engine.look_into(lambda: list(waits_of(driver._core, driver.index, runtime, driver.outside.told())))
    return {
        "state": str(driver.state),
        "total": len(found),
        "waits": [wait.to_json() for wait in found[:WAITS_MAX]],
    }


def _placement(engine: Engine, driver: Driver, seq: int) -> dict[str, Any]:
    """What the runtime says of the step's attempt that is out, if one is."""

    def current() -> int | None:
        step = driver._core.steps.get(seq)
        return step.attempt if step is not None and step.phase in (Phase.SUBMITTED, Phase.RUNNING) else None

    attempt = engine.look_into(current)
    told = {} if attempt is None else engine.runtime.explain((driver.index, seq, attempt))
    return {"state": str(driver.state), "placement": told}


class Question(Generic[Answer]):
    """Something to find out on another thread."""

    def __init__(self, work: Callable[[], Answer]) -> None:
        self._work = work
        self._answer: SimpleQueue[Answer | Exception] = SimpleQueue()

    def answer(self) -> None:
        try:
            self._answer.put(self._work())
        except Exception as error:
            self._answer.put(error)

    def wait(self) -> Answer:
        """Raises what the work raised; RuntimeStopped if nobody answers, because the engine is closed."""
        try:
            answer = self._answer.get(timeout=ANSWER_SECONDS)
        except Empty:
            raise RuntimeStopped("the engine does not answer: it is closed, or very busy") from None
        if isinstance(answer, Exception):
            raise answer
        return answer
