"""The actors of a run's stateful objects: when one is made, rebuilt, and let go of.

An actor lives from its object's first call until none can come. When it is lost, or a call that failed may have left
its state half changed, it is ended; the next call that is ready has it rebuilt from what is recorded: the state saved
last, and the calls after it once more. A call whose object can't be rebuilt pays for that from its own budgets.

An actor holds its worker and its devices also while it has nothing to do. So that a run can't wait for what it holds
itself, an idle actor is ended when attempts have waited for a while: its state is on record.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.actions import Notice
from dagengine.core.chain import Instance, Life, Place
from dagengine.core.events import ActorBuilt, ActorGone, ActorNotBuilt, InstanceLetGo, PatienceOver
from dagengine.core.ledger import Ledger
from dagengine.core.states import BodyPhase, Phase
from dagengine.core.step import Step
from dagengine.model import Failure, StepState
from dagengine.options import Options

WORKER_LOSSES = 3
"""Further attempts after workers that died, apart from the task's own `retries` (design.md, section 5)."""

LOSS_DELAY = 0.2
"""Seconds before a step whose worker died is tried again; doubled each time. Long enough for memory to be given back."""


class Actors(Ledger):
    """A ledger that knows where its stateful objects are."""

    def saves(self, step: Step) -> bool:
        """Whether the state is to be saved with this call, if it succeeds."""
        place = step.place
        return place is not None and not step.readonly and place.instance.unsaved + 1 >= place.instance.every

    def actors(self) -> list[tuple[int, int]]:
        """(seq of the CREATE step, incarnation) of those that there are."""
        return [(instance.seq, instance.incarnation) for instance in self.instances.values() if instance.life]

    # ---- rebuilding -------------------------------------------------------------------------

    def _park(self, step: Step, instance: Instance, now: float) -> None:
        """Let a call that is ready wait for its object."""
        if instance.wasted > WORKER_LOSSES and instance.life is Life.NONE:
            instance.wasted = 0
            self._end(step, StepState.FAILED, now, failure=instance.cause)
            return
        self._go(step, Phase.PARKED)
        instance.parked.append(step)
        if instance.life is Life.NONE:
            self._begin_life(instance)
            self._actions.rebuild.append((instance.seq, instance.incarnation))

    def _begin_life(self, instance: Instance) -> None:
        instance.incarnation += 1
        instance.served = False
        instance.life = Life.STARTING

    def _unpark(self, instance: Instance) -> list[Step]:
        parked = [step for step in instance.parked if step.phase is Phase.PARKED]  # others were cancelled
        instance.parked.clear()
        return parked

    def _starting(self, seq: int, incarnation: int) -> Instance | None:
        instance = self.instances.get(seq)
        if instance is None or instance.incarnation != incarnation or instance.life is not Life.STARTING:
            return None
        return instance

    def _actor_built(self, event: ActorBuilt, now: float) -> None:
        instance = self._starting(event.seq, event.incarnation)
        if instance is None:
            return
        instance.life = Life.UP
        instance.unsaved = event.unsaved
        self._unsettled[instance.seq] = instance
        for step in self._unpark(instance):
            self._go(step, Phase.READY)
            self._ready.append(step.seq)

    def _actor_not_built(self, event: ActorNotBuilt, now: float) -> None:
        instance = self._starting(event.seq, event.incarnation)
        if instance is None:
            return
        instance.life = Life.NONE
        for step in self._unpark(instance):
            if event.lost:
                self._lost_again(step, event.failure, event.at, event.chance)
            else:
                self._failed_again(step, event.failure, event.at, event.chance)

    def _lost_again(self, step: Step, failure: Failure, at: float, chance: float) -> None:
        """A worker died under the step: it is tried again, as long as its budget lasts."""
        step.losses += 1
        if step.losses <= WORKER_LOSSES:
            delay = Options(retry_delay=LOSS_DELAY).delay(step.losses, chance)
            self._retry(step, delay, "worker.lost", failure)
        else:
            self._end(step, StepState.FAILED, at, failure=failure)

    def _failed_again(self, step: Step, failure: Failure, at: float, chance: float) -> None:
        """An attempt failed by itself: it is tried again, if the task's options say so."""
        options = self.options[step.definition]
        step.failures += 1
        if failure.retriable and step.failures <= options.retries:
            self._retry(step, options.delay(step.failures, chance), "step.retried", failure)
        else:
            self._end(step, StepState.FAILED, at, failure=failure)

    def _retry(self, step: Step, delay: float, kind: str, failure: Failure) -> None:
        self._go(step, Phase.RETRYING)
        self._actions.timers.append((delay, step.seq, step.attempt))
        self._actions.notices.append(Notice(kind, step.seq, step.key, failure, delay))

    # ---- ends -------------------------------------------------------------------------------

    def _actor_gone(self, event: ActorGone, now: float) -> None:
        instance = self.instances.get(event.seq)
        if instance is not None and instance.incarnation == event.incarnation and instance.life is Life.UP:
            instance.life = Life.NONE
            if not instance.served:
                instance.wasted += 1
                instance.cause = event.failure

    def _spoil(self, place: Place) -> None:
        """The attempt may have changed the state, or ended the process: what is left of the actor is not used again."""
        if place.incarnation == place.instance.incarnation:
            self._release(place.instance, force=True)

    def _release(self, instance: Instance, force: bool) -> None:
        if instance.life is not Life.NONE:
            self._actions.release.append((instance.seq, instance.incarnation, force or instance.life is Life.STARTING))
            instance.life = Life.NONE

    def _instance_let_go(self, event: InstanceLetGo, now: float) -> None:
        instance = self.instances.get(event.seq)
        if instance is not None:
            instance.held = False
            self._unsettled[instance.seq] = instance

    def _settle(self, now: float) -> None:
        """Let go of objects that can have no more calls; one that never had any is made once, to see that it can be."""
        while self._unsettled:
            _, instance = self._unsettled.popitem()
            if self.stop and not instance.out:
                self._release(instance, force=False)
            if instance.open or (instance.held and self.body is BodyPhase.OPEN):
                continue
            create = self.steps.get(instance.seq)
            if create is not None and create.end is None:
                self._want(instance, now)
                continue  # comes again with its end
            self._release(instance, force=False)
            self.instances.pop(instance.seq, None)

    def _release_all(self, force: bool) -> None:
        for instance in self.instances.values():
            create = self.steps.get(instance.seq)
            if create is None or create.phase not in (Phase.SUBMITTED, Phase.RUNNING):  # that attempt ends by itself
                self._release(instance, force)

    # ---- idle ones --------------------------------------------------------------------------

    def _watch_idle(self) -> None:
        """If attempts go out while an actor has nothing to do, look after a while whether they wait for it."""
        out = self._actions.submit or self._actions.rebuild
        if self.instances and out and not self._waited and self._idle():
            self._waited = set(self._actions.submit) | {(seq, -number) for seq, number in self._actions.rebuild}
            self._actions.patience = True

    def _patience_over(self, event: PatienceOver, now: float) -> None:
        idle = self._idle()
        if event.others:
            for instance in idle:
                self._release(instance, force=False)
            return
        waited, self._waited = self._waited, set()
        waiting = self._waiting() if idle else set()
        if waited & waiting:
            for instance in idle:
                self._release(instance, force=False)
        elif waiting:
            self._waited = waiting
            self._actions.patience = True

    def _idle(self) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.life is Life.UP and not instance.out]

    def _waiting(self) -> set[tuple[int, int]]:
        """Attempts that the runtime has and has not started, and actors that are being rebuilt."""
        submitted = {(step.seq, step.attempt) for step in self.steps.values() if step.phase is Phase.SUBMITTED}
        starting = {(seq, -number) for seq, number in self.actors() if self.instances[seq].life is Life.STARTING}
        return submitted | starting
