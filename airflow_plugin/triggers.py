"""The trigger behind deferred tasks: it waits for the end of a run, or of steps of it, in the triggerer.

It holds no worker slot, no connection of its own and no state: what it is made of is in Airflow's database as plain JSON
(the id of a connection, never what is in it), so another triggerer goes on where one has died. All triggers of a process
that watch one store share one poller (`poller`).

A run is cancelled when a person ends its task (`on_kill`): not when a triggerer is stopped, when the trigger moves, or
when its deadline passes; what becomes of a late run is the operator's affair.

Importing this imports Airflow's triggers and our thin modules; the engine only when a store is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from dagengine.airflow_plugin.places import open_client
from dagengine.airflow_plugin.poller import Answer, watching

if TYPE_CHECKING:
    from dagengine.airflow_plugin.commands import CommandClient
    from dagengine.awaited import Awaited
    from dagengine.client import Client

TIMEOUT: Final = "timeout"
MISSING: Final = "missing"
REFUSED: Final = "refused"
"""What an event's "state" can be besides the state of a run or step: the deadline has passed; there is no such run (any
more); the store or its connection can't be had, and waiting won't change that."""

SETTLING = 5.0
"""Seconds for which a trigger fires nothing. A task that is queued again before Airflow's scheduler has read that its worker has
let it go, which it does once a round, is failed as lost ("finished with state success, but the … state attribute is queued")."""


class StoreSource:
    """A store, as the poller asks it: how each wait has ended; "" where it has not."""

    def __init__(self, conn_id: str | None, store: str | None, python: str | None) -> None:
        self._place = (conn_id, store, python)
        self._client: Client | CommandClient | None = None

    def ask(self, questions: Sequence[Awaited]) -> Mapping[Awaited, str]:
        client = self._client
        if client is None:
            client = self._client = open_client(*self._place)
        return {question: end or "" for question, end in client.ends(questions).items()}

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def is_lasting(self, error: Exception) -> bool:
        from dagengine.errors import DefinitionError, StoreError, StoreFull, StoreUnavailable, StoreUnsupported

        if isinstance(error, StoreError):
            return isinstance(error, StoreUnsupported) or not isinstance(error, (StoreUnavailable, StoreFull))
        return isinstance(error, DefinitionError)


class DagengineTrigger(BaseTrigger):
    """Fires once: {"run_id", "step", "deadline", "state", "message"}.

    run_id: the run's whole id
    conn_id, store: where it is recorded (`places`); python: the interpreter that asks there, as of `DagengineOperator`
    step, count: wait for a step, or a group of them (`DagengineSensor`), instead of the run
    deadline: when to give up, in seconds since the epoch: the event's state is "timeout" then
    poll_interval: seconds between two looks into the store, at least
    on_kill: what becomes of the run when a person ends the task: "cancel", "compensate" (and undo what it did), "leave"
    """

    def __init__(
        self,
        run_id: str,
        *,
        conn_id: str | None = None,
        store: str | None = None,
        python: str | None = None,
        step: str | None = None,
        count: int | None = None,
        deadline: float | None = None,
        poll_interval: float = 1.0,
        on_kill: str = "cancel",
    ) -> None:
        super().__init__()
        self.run_id = run_id
        self.conn_id = conn_id
        self.store = store
        self.python = python
        self.step = step
        self.count = count
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.when_killed = on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "run_id": self.run_id,
            "conn_id": self.conn_id,
            "store": self.store,
            "python": self.python,
            "step": self.step,
            "count": self.count,
            "deadline": self.deadline,
            "poll_interval": self.poll_interval,
            "on_kill": self.when_killed,
        }
        return f"{DagengineTrigger.__module__}.{DagengineTrigger.__qualname__}", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from dagengine.awaited import Awaited

        asked = Awaited(self.run_id, self.step, self.count)
        seconds = None if self.deadline is None else max(0.0, self.deadline - time.time())
        earliest = asyncio.get_running_loop().time() + SETTLING
        try:
            async with asyncio.timeout(seconds):
                state, message = await self._end(asked)
        except TimeoutError:
            state, message = TIMEOUT, None
        await asyncio.sleep(earliest - asyncio.get_running_loop().time())
        said = {"run_id": self.run_id, "step": self.step, "deadline": self.deadline}
        yield TriggerEvent({**said, "state": state, "message": message})

    async def _end(self, asked: Awaited) -> tuple[str, str | None]:
        key = (self.conn_id, self.store, self.python)
        troubled = False
        async with watching(key, lambda: StoreSource(*key), asked, self.poll_interval) as watch:
            while True:
                answer: Answer = await watch.next()
                if answer.lasting:
                    return REFUSED, answer.trouble
                if answer.trouble is not None:
                    self.log.warning(
                        "The run store can't be asked: %s. It is asked again until it answers.", answer.trouble
                    )
                    troubled = True
                    continue
                if troubled:
                    self.log.info("The run store answers again.")
                    troubled = False
                if answer.value is None:
                    return MISSING, None
                if answer.value:
                    return answer.value, None

    async def on_kill(self) -> None:
        if self.when_killed == "leave":
            return
        self.log.info("Run %s is cancelled, because its task was ended by hand.", self.run_id)
        await asyncio.to_thread(self._cancel)

    def _cancel(self) -> None:
        with open_client(self.conn_id, self.store, self.python) as client:
            client.cancel(self.run_id, compensate=self.when_killed == "compensate")
