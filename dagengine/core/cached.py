"""Steps whose value another run may have, in the run core.

A step of a task with a cache is LOOKING from when its inputs are durable. The shell answers once: CacheHit ends it with
the value; CacheMissed lets it run, and says under which key its value is kept in the same commit as its end. A `claim`
on the key, by which others wait for this step, is let go of in the commit of any other end.

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.compensation import Compensation
from dagengine.core.events import CacheHit, CacheMissed
from dagengine.core.states import Phase
from dagengine.core.step import Step
from dagengine.model import Failure, StepKind, StepState, Value
from dagengine.storage.writes import SideWrite, StateChange


class Cached(Compensation):
    """A run some of whose values are known to others."""

    def _consider(self, step: Step, now: float) -> None:
        if step.phase is Phase.WAITING and not step.missing and self._may_be_known(step):
            self._looked.add(step.seq)
            self._go(step, Phase.LOOKING)
            self._actions.lookup.append(step.seq)
        else:
            super()._consider(step, now)

    def _may_be_known(self, step: Step) -> bool:
        return (
            step.kind is StepKind.TASK
            and self.options[step.definition].cache is not None
            and step.seq not in self._looked
            and not self.stop
        )

    def _cache_hit(self, event: CacheHit, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is not None and step.phase is Phase.LOOKING and not self.finish_asked:
            self._end(step, StepState.SUCCEEDED, now, value=event.value)
            self._actions.writes.extend(event.also)

    def _cache_missed(self, event: CacheMissed, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is None or step.phase is not Phase.LOOKING or self.finish_asked:
            return  # the claim is void when the run is over
        if event.key:
            self._claims[step.seq] = (event.key, event.claim)
        self._actions.writes.extend(event.also)
        self._go(step, Phase.READY)
        self._ready.append(step.seq)

    def _end(
        self,
        step: Step,
        state: StepState,
        at: float,
        *,
        value: Value | None = None,
        failure: Failure | None = None,
        changed: StateChange | None = None,
    ) -> None:
        claim = self._claims.pop(step.seq, None)
        super()._end(step, state, at, value=value, failure=failure, changed=changed)
        if claim is None:
            return
        if state is StepState.SUCCEEDED and value is not None and value.digest and value.items is None:
            row = {
                "new_digest": value.digest,
                "new_size": value.size,
                "new_value": value.inline,
                "new_at": at,
            }
            self._actions.writes.append(_about("KEEP", claim, row))
        else:
            self._actions.writes.append(_about("LET_GO", claim, {}))


def _about(what: str, claim: tuple[str, str], row: dict[str, object]) -> SideWrite:
    return SideWrite(f"caching:{what}", ({"of_key": claim[0], "claim": claim[1], **row},))
