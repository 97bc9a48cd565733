"""What a try of an Airflow task does about the run that is there: begin one, attach to it, go on with it, or return it.

                          in the same generation (a retry)           in a new one (the task was cleared)
    no run                begin                                      begin
    other call            refuse                                     fork with today's arguments; other workflow: begin
    somebody works on it  attach                                     attach (it was left alone when the task was killed)
    succeeded             return what it returned                    begin       on_clear="reuse": return
    failed, cancelled,    resume       on_retry="restart": begin     fork with today's code: what has not changed and has
    interrupted, …                                                   succeeded is shared     "new": begin    "reuse": resume
    … and undone          begin                                      begin

A run whose own task was killed is cancelled or crashed by then, which is for a retry as good as failed. Refusing is for
good: the task fails, and its retries with it, because they would find the same.

Pure. Of ours it may import model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dagengine.model import RunState

Where = Literal["here", "serve"]
OnRetry = Literal["resume", "restart"]
OnClear = Literal["auto", "new", "reuse"]
OnKill = Literal["cancel", "leave", "compensate"]

WHERE: tuple[Where, ...] = ("here", "serve")
ON_RETRY: tuple[OnRetry, ...] = ("resume", "restart")
ON_CLEAR: tuple[OnClear, ...] = ("auto", "new", "reuse")
ON_KILL: tuple[OnKill, ...] = ("cancel", "leave", "compensate")


@dataclass(frozen=True, slots=True)
class Found:
    """A recorded run of the task.

    state: as it looks now: RUNNING only if a live process works on it
    expected: it waits in a queue, or is under way there: a server sees to it
    same_workflow, same_arguments: whether it is a run of the call that the task is to make now
    begun: a process has worked on it: there may be steps to share
    undone: it was compensated to the end: there is nothing left of it to go on with
    """

    run_id: str
    state: RunState
    expected: bool = False
    same_workflow: bool = True
    same_arguments: bool = True
    begun: bool = True
    undone: bool = False

    @property
    def same_call(self) -> bool:
        return self.same_workflow and self.same_arguments


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a run. `anew`: one of this generation is there, and stays as it is: the new one needs an id of its own."""

    anew: bool = False


@dataclass(frozen=True, slots=True)
class Attach:
    """Wait for the run, on which somebody else works, or will."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the run: what has succeeded is not repeated."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Begin a run that shares what it can of `donor`, with today's code. `rebind`: with today's arguments, too."""

    donor: str
    rebind: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """The run has succeeded: its result is the task's."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The task fails for good. `reason`: one line, for the task's log. `cancel`: the run that has to be ended first."""

    reason: str
    cancel: str | None = None


Decision = Begin | Attach | Resume | Fork | Return | Refuse


def decide(
    found: Found | None,
    previous: Found | None,
    *,
    where: Where = "here",
    on_retry: OnRetry = "resume",
    on_clear: OnClear = "auto",
) -> Decision:
    """What to do at the beginning of a try.

    found: the latest run of this generation; previous: the latest of an earlier one, asked for only if there is none
    """
    if found is not None:
        return _again(found, where, on_retry)
    if previous is None or on_clear == "new":
        return Begin()
    if on_clear == "reuse":
        return _again(previous, where, "resume")
    return _cleared(previous, where)


def _again(run: Found, where: Where, on_retry: OnRetry) -> Decision:
    """The task's own run, once more."""
    if not run.same_call:
        what = "arguments" if run.same_workflow else "workflow"
        return Refuse(
            f"run {run.run_id[:12]} of this task was begun with other {what}, and is {run.state}: the task won't take it for"
            f" its own. Are there templates in it that change from try to try? Correct them, and clear the task."
        )
    if run.state is RunState.SUCCEEDED:
        return Return(run.run_id)
    if _is_attended(run, where):
        return Attach(run.run_id)
    if run.undone or (on_retry == "restart" and run.begun):
        return Begin(anew=True)
    return Resume(run.run_id)


def _cleared(run: Found, where: Where) -> Decision:
    """The run that the task had before it was cleared."""
    if run.state is RunState.SUCCEEDED or not run.same_workflow:
        return Begin()
    if _is_attended(run, where):
        # It was left alone when the task was killed, or somebody else has taken it up. A second one beside it would do
        # the same work twice, and maybe at once.
        return Attach(run.run_id) if run.same_arguments else _still_works(run)
    if run.undone or not run.begun:
        return Begin()
    return Fork(run.run_id, rebind=not run.same_arguments)


def _still_works(run: Found) -> Refuse:
    return Refuse(
        f"run {run.run_id[:12]}, which this task had before it was cleared, is still {run.state}, with other arguments",
        cancel=run.run_id,
    )


def _is_attended(run: Found, where: Where) -> bool:
    """Whether somebody works on the run, or will without being asked."""
    if run.state in (RunState.RUNNING, RunState.PAUSED):
        return True  # a paused one is a person's to let go on
    if run.expected:
        return True
    # A run that waits without a process is woken by a server. Where the task's own process had it, that is gone.
    return run.state is RunState.WAITING and where == "serve"
