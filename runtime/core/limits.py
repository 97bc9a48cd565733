"""The numbers of the scheduler core, each with its reason. Imports nothing of ours."""

from __future__ import annotations

from typing import Final

AHEAD_SECONDS: Final = 0.005
"""Estimated work for each worker that a node may have: enough to hide a round trip, little enough to stay movable."""

AHEAD_TASKS: Final = 256
"""Leases for each worker, or calls sent to one actor: bounds what one batch holds and what a death gives back."""

AGE_SECONDS: Final = 2.0
"""When what can't be placed has waited this long, nothing younger overtakes it on the node that it will get."""

ARGUMENTS_SHARE: Final = 0.7
"""Of the arena, for the inputs of running tasks, when more than one runs: outputs need room as well."""

SPILL_ABOVE: Final = 0.8
SPILL_DOWN_TO: Final = 0.7
"""Shares of the arena between which is spilled ahead of need, so that a writer seldom waits for the disk."""

SPILL_BYTES: Final = 64 << 20
SPILL_OBJECTS: Final = 2_000
"""Of one Spill: small objects are fused into one file, which stays small enough to be given back as a whole."""

SUSPECT_SECONDS: Final = 3.0
DEAD_SECONDS: Final = 10.0
"""Silence of a node that sends heartbeats, until it gets no more leases; until it is given up. A node stops its own
workers after 8 s of silence, so that no attempt of a node that was given up runs on."""

BACKOFF_SECONDS: Final = 0.2
"""Before the attempt after a lost one; doubles with each."""

MEMORY_LOSSES: Final = 5
"""Attempts that may be killed for lack of memory before a task with `losses` is given up."""

FETCHES: Final = 3
"""Times in a row that an object may fail to come from one node, until its copy there is taken for lost."""

REBUILDS: Final = 3
"""Times that one object is made again."""

REVOKE_SECONDS: Final = 0.001
"""Estimated work worth taking back for an idle node."""

PRESSED_SHARE: Final = 0.80
KILL_SHARE: Final = 0.95
"""Of a node's memory: no new leases above the first; above the second one attempt is killed."""

GHOSTS: Final = 50_000
"""Freed objects that are remembered because others would need them to be made again: a loop that makes each object from
the one before would otherwise remember for ever. What is forgotten ends the climb of a later rebuild."""

STALL_SECONDS: Final = 60.0
"""That a task waits for room which a full spill space does not let come, while nothing else happens; then it ends."""

STALL_BUSY: Final = 10
"""Times as long while anything runs: its end may change things."""

STALL_NEXT_SECONDS: Final = 1.0
"""Until more such tasks end: whoever submitted the first has freed by then what only that one needed."""

KLASSES: Final = 256
"""Classes of tasks, until those that have no tasks are forgotten."""

WATCH_SECONDS: Final = 1.0
"""Between looks for tasks that wait for each other, as long as any task waits inside itself."""
