"""Bugs to plant in the scheduler core: mistakes that are easily made, each as a change of one method or constant.

`plant(patch)` changes the core for the time of a test. What is called `real` below is the method before the change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import (
    actors,
    groups,
    leasing,
    ledger,
    lives,
    machine,
    objects,
    queues,
    recovery,
    rooms,
    states,
    watchdog,
)
from dagengine.runtime.core import model as m

Patch = Any  # pytest.MonkeyPatch, whose setattr takes anything


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _wrap(patch: Patch, owner: Any, method: str, around: Callable[..., Any]) -> None:
    """`around(real, self, *arguments)` instead of the method."""
    real = getattr(owner, method)
    patch.setattr(owner, method, lambda self, *arguments, **named: around(real, self, *arguments, **named))


def a_task_is_leased_twice(patch: Patch) -> None:
    """What was just leased is leased once more."""

    def apply(real: Any, core: Any, event: Any, now: float) -> Any:
        answer = real(core, event, now)
        runs = [action for action in answer if isinstance(action, a.Run)]
        return [*answer, a.Run(runs[0].node, runs[0].epoch, runs[0].leases[:1])] if runs else answer

    _wrap(patch, machine.Scheduler, "apply", apply)


def inputs_are_not_pinned(patch: Patch) -> None:
    """The inputs of a leased task may leave the arena."""
    patch.setattr(objects.Directory, "pin", _nothing)
    patch.setattr(objects.Directory, "unpin", _nothing)


def views_that_outlive_a_task_are_ignored(patch: Patch) -> None:
    """Held is not listened to."""
    patch.setattr(machine.Scheduler, "_held", _nothing)


def a_room_that_was_not_used_is_not_given_back(patch: Patch) -> None:
    """RoomReturned, and the ends of attempts, leave rooms as they are."""

    def close_all(real: Any, self: Any, task: Any) -> None:
        task.extra.rooms.clear()

    _wrap(patch, rooms.Rooms, "close_all", close_all)
    patch.setattr(machine.Scheduler, "_room_returned", _nothing)


def the_epoch_of_news_is_ignored(patch: Patch) -> None:
    """What a node said before it was given up is believed."""
    patch.setattr(machine.Scheduler, "_node", lambda self, node_id, epoch: self.nodes.get(node_id))


def the_number_of_an_attempt_is_ignored(patch: Patch) -> None:
    """The end of an attempt that was given up counts as that of the current one."""

    def current(self: Any, node: Any, task_id: Any, attempt: int) -> Any:
        return self.tasks.get(task_id)

    patch.setattr(machine.Scheduler, "_current", current)


def a_freed_object_is_dropped_under_its_readers(patch: Patch) -> None:
    """Freed drops at once, whoever has still to read it."""

    def freed(real: Any, self: Any, object_id: Any) -> None:
        obj = self.objects.get(object_id)
        if obj is not None:
            obj.users = 0
        real(self, object_id)

    _wrap(patch, objects.Directory, "freed", freed)


def a_group_is_committed_by_half(patch: Patch) -> None:
    """Of several bundles the last one gets no place."""

    def commit(real: Any, self: Any, group: Any, placed: Any) -> None:
        real(self, group, placed[:-1] if len(placed) > 1 else placed)

    _wrap(patch, groups.Groups, "_commit", commit)


def a_device_is_given_twice(patch: Patch) -> None:
    """What is taken of a device is not taken from its account."""

    def take(real: Any, self: Any, need: Any, memory: int, devices: Any) -> None:
        real(self, need, memory, ())

    def give(real: Any, self: Any, need: Any, memory: int, devices: Any) -> None:
        real(self, need, memory, ())

    _wrap(patch, ledger.Ledger, "take", take)
    _wrap(patch, ledger.Ledger, "give", give)


def memory_is_given_twice(patch: Patch) -> None:
    """Claims on a node's memory are not counted."""

    def take(real: Any, self: Any, need: Any, memory: int, devices: Any) -> None:
        real(self, need, 0, devices)

    def give(real: Any, self: Any, need: Any, memory: int, devices: Any) -> None:
        real(self, need, 0, devices)

    _wrap(patch, ledger.Ledger, "take", take)
    _wrap(patch, ledger.Ledger, "give", give)


def a_lost_attempt_is_tried_again_at_once(patch: Patch) -> None:
    """The back-off is forgotten."""
    patch.setattr(lives, "BACKOFF_SECONDS", 0.0)


def losses_are_not_counted(patch: Patch) -> None:
    """The budget for lost attempts never runs out."""

    def lose(real: Any, self: Any, task: Any) -> None:
        task.more.losses = min(task.more.losses, task.request.losses - 1)
        real(self, task)

    _wrap(patch, lives.Lives, "lose", lose)


def calls_of_an_actor_overtake(patch: Patch) -> None:
    """A call whose inputs are there goes out before one whose inputs are not."""

    def push(real: Any, self: Any, actor: Any) -> None:
        ready = [task for task in actor.mailbox if task.state == states.State.MAILED]
        others = [task for task in actor.mailbox if task.state != states.State.MAILED]
        actor.mailbox.clear()
        actor.mailbox.extend([*ready, *others])
        real(self, actor)

    _wrap(patch, actors.Actors, "push", push)


def a_cancelled_task_delivers(patch: Patch) -> None:
    """A task that is killed because nobody wants it is told as lost, and tried again."""

    def lose(real: Any, self: Any, task: Any) -> None:
        if task.more.doomed == "cancelled":
            task.more.doomed = None
        real(self, task)

    _wrap(patch, lives.Lives, "lose", lose)


def cycles_are_not_seen(patch: Patch) -> None:
    """Tasks that wait for one another just wait."""
    patch.setattr(watchdog.Watchdog, "cycles", lambda self: [])


def a_spilled_object_is_dropped_twice(patch: Patch) -> None:
    """Its file is told to go once more."""

    def remove(real: Any, self: Any, copy: Any) -> None:
        spilled, node, object_id = copy.spilled, copy.node, copy.object.id
        real(self, copy)
        if spilled:
            self.drop(node, object_id, True)

    _wrap(patch, objects.Directory, "remove", remove)


def a_spilled_object_is_never_dropped(patch: Patch) -> None:
    """What was freed stays in the spill space."""

    def drop(real: Any, self: Any, node: Any, object_id: Any, spilled: bool) -> None:
        copy = node.copies.get(object_id)
        if not spilled or (copy is not None and copy.place == states.Place.PRESENT):
            real(self, node, object_id, False)

    _wrap(patch, objects.Directory, "drop", drop)


def a_spill_that_failed_counts(patch: Patch) -> None:
    """The room of what could not be written is given to others."""

    def written(real: Any, self: Any, copy: Any, ok: bool) -> None:
        real(self, copy, True)

    _wrap(patch, objects.Directory, "written", written)


def the_limit_of_an_arena_is_soft(patch: Patch) -> None:
    """A tenth more is granted than there is."""
    patch.setattr(m.Node, "free", property(lambda node: int(1.1 * node.limit) - node.used - node.reserved))


def outputs_wait_for_room_for_ever(patch: Patch) -> None:
    """A full arena makes nobody overflow."""
    patch.setattr(rooms.Rooms, "_yield", _nothing)


def a_lost_object_is_not_made_again(patch: Patch) -> None:
    """Nobody does anything about it; its readers wait."""
    patch.setattr(recovery.Recovery, "lost_copy", _nothing)
    patch.setattr(recovery.Recovery, "lost_copies", _nothing)


def what_a_node_brings_back_is_not_looked_at(patch: Patch) -> None:
    """The objects that a node still has when it joins anew are neither counted nor dropped."""

    def join(real: Any, self: Any, node_id: Any, capacity: Any, holds: Any) -> None:
        real(self, node_id, capacity, ())

    _wrap(patch, recovery.Recovery, "join", join)


def a_silent_node_is_given_up_too_early(patch: Patch) -> None:
    """Before it has surely ended its workers."""
    patch.setattr(recovery, "DEAD_SECONDS", 4.0)


def a_silent_node_is_never_given_up(patch: Patch) -> None:
    """Nobody counts the beats."""
    patch.setattr(recovery, "DEAD_SECONDS", 1e9)


def what_reads_a_dead_object_waits(patch: Patch) -> None:
    """The end of a producer is not passed on to those who wait for what it did not make."""
    patch.setattr(lives.Lives, "fail", lambda self: self._failing.clear())


def cpus_are_kept_while_a_task_waits_inside_itself(patch: Patch) -> None:
    """Parents hold what their children need."""
    patch.setattr(machine.Scheduler, "_blocked", _nothing)


def priorities_are_ignored(patch: Patch) -> None:
    """First come, first served."""
    for module in (queues, leasing):
        patch.setattr(module, "key_of", lambda task: (0, -task.request.rank, task.order))


def ranks_are_ignored(patch: Patch) -> None:
    """The longest path waits its turn."""
    for module in (queues, leasing):
        patch.setattr(module, "key_of", lambda task: (-task.request.priority, 0.0, task.order))


BY_SEEDS: list[Callable[[Patch], None]] = [
    a_task_is_leased_twice,
    inputs_are_not_pinned,
    views_that_outlive_a_task_are_ignored,
    a_room_that_was_not_used_is_not_given_back,
    the_epoch_of_news_is_ignored,
    the_number_of_an_attempt_is_ignored,
    a_freed_object_is_dropped_under_its_readers,
    a_group_is_committed_by_half,
    a_device_is_given_twice,
    memory_is_given_twice,
    a_lost_attempt_is_tried_again_at_once,
    losses_are_not_counted,
    calls_of_an_actor_overtake,
    a_cancelled_task_delivers,
    cycles_are_not_seen,
    a_spilled_object_is_dropped_twice,
    a_spilled_object_is_never_dropped,
    a_spill_that_failed_counts,
    the_limit_of_an_arena_is_soft,
    outputs_wait_for_room_for_ever,
    a_lost_object_is_not_made_again,
    what_a_node_brings_back_is_not_looked_at,
    a_silent_node_is_given_up_too_early,
    a_silent_node_is_never_given_up,
    what_reads_a_dead_object_waits,
    cpus_are_kept_while_a_task_waits_inside_itself,
]
"""Found by running seeds."""

BY_ORDER: list[Callable[[Patch], None]] = [priorities_are_ignored, ranks_are_ignored]
"""Wrong only in what goes first: found by looking at that."""
