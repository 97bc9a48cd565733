"""What a store promises. A second implementation can be written from this file and `tests/contract/` alone.

**Atomicity.** Each `write` of one run's batch is all or nothing, and durable when its callback says so: it survives
`kill -9` and a power cut. Batches of one run are applied in the order in which they were handed over. Any prefix of the
batches is a valid record. Batches of several callers may share one commit (group commit); a batch that is refused
takes none of the others with it.

**Ownership.** A run has at most one owner process, and a fencing token that grows by one with each claim. `claim`
is given the proof of life: it takes the run over from a dead owner at once, and refuses with `RunOwned`, naming the
owner, when it lives. A store that several machines share has leases, too: an owner that did not `renew` for as long as
`lease` may be replaced, dead or not. Every write carries the claim; one whose token is not the run's current token changes nothing
and is answered with `Fenced`. Released runs (`FinishRun`) have no owner, and their token still counts.

**Values.** Rows hold encoded values up to `model.INLINE_LIMIT`; of larger ones the row names the digest, and the bytes
are durable in the artifact store *before* the row is written (the caller sees to that).

**Errors.** Only `StoreError`s and `RunError`s of `dagengine.errors` leave a store.

**Threads.** All methods may be called from any thread. Callbacks of `write` run on a thread of the store's, in order.

What a batch can hold is in `writes`. May import nothing of ours but errors, model and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from dagengine.errors import InternalError, RunError, StoreError
from dagengine.model import (
    AttemptRecord,
    Claim,
    Definition,
    EventRecord,
    Failure,
    Frontier,
    NewRun,
    OutsideStep,
    ProcessRecord,
    RecordedCall,
    RunRecord,
    RunState,
    SavedState,
    Share,
    Standing,
    StepRecord,
    StepState,
    Value,
)
from dagengine.storage.writes import Write

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first. `name`: of the workflow. `since`: created at or after; `before`: before that."""

    states: tuple[RunState, ...] = ()  # CRASHED can't be asked for here: only the caller can prove a death
    name: str | None = None
    since: float | None = None
    limit: int = 50
    before: float | None = None
    tags: tuple[tuple[str, str | None], ...] = ()  # all of these, with this text or, for None, any


class Store(Protocol):
    """A store of runs. Open it with `dagengine.storage.open_store`; `close` it (twice is harmless)."""

    url: str
    """Without secrets, for people."""

    address: str | None
    """How another process opens this store, secrets included: for our own processes, never shown. None: it can't."""

    lease: float | None
    """Seconds for which a process owns its runs without `renew`, on the database's clock. None: as long as it lives."""

    def close(self) -> None:
        """Wait until what was handed to `write` is done, then let go of everything."""

    def hurry(self) -> None:
        """Give up on a database that is gone, now and from now on, instead of waiting for it to come back."""

    # ---- begin and own ----------------------------------------------------------------------

    def create_run(
        self,
        run: NewRun,
        process: ProcessRecord | None,
        share: Share | None = None,
        also: Callable[[Any], None] | None = None,
    ) -> Claim | None:
        """Record the run, durable when this returns: RUNNING and owned by `process`, or PENDING if there is none.

        With `share`, which only a PENDING run can, it has from the beginning what it shares of another one; attempts and
        failures are not shared. `also` is called with a connection, as by `side`, in the same transaction: what it writes
        is there with the run or not at all, and what it raises is raised here. Raises RunExists if the id is taken.
        """
        ...

    def claim(
        self,
        run_id: str,
        process: ProcessRecord,
        alive: Callable[[ProcessRecord], bool],
        reopen: bool = True,
        *,
        as_it_was: RunRecord | None = None,
    ) -> Claim:
        """Take the run: token + 1, RUNNING, owned by `process`. `run_id` is the whole id.

        With `reopen`, in the same transaction: steps that failed (and whose failure is not handled), were skipped or
        cancelled go back to WAITING, and a request to cancel is forgotten. A handled failure stays, whatever it is of;
        a map keeps its items. A SUCCEEDED run is not changed, and raises RunExists. Raises RunNotFound, or RunOwned if
        the owner is `alive`, and its lease is not over; RunConflict if the run is not `as_it_was` any more: somebody has
        worked on it, or changed it.
        """
        ...

    def claim_all(
        self, run_ids: Sequence[str], process: ProcessRecord, alive: Callable[[str, ProcessRecord], bool]
    ) -> dict[str, Claim | StoreError | RunError]:
        """As `claim` of each, without `reopen`, in as few commits as there can be: its claim, or what `claim` raises.

        `alive` is given the run's id and its owner.
        """
        ...

    def renew(self, process: ProcessRecord) -> dict[int, bool]:
        """The process lives: its lease begins anew. The numbers of the RUNNING runs that it owns, and of each whether
        somebody has asked it to stop."""
        ...

    def listen(self, process: ProcessRecord, seconds: float) -> None:
        """Wait until something is asked of the runs of this process, or for `seconds`, or until `wake`. Only a hint."""

    def wake(self, process: ProcessRecord) -> None:
        """End a `listen` for this process, now or, where there is none, the next one."""

    # ---- write ------------------------------------------------------------------------------

    def write(
        self, claim: Claim, batch: Sequence[Write], done: Callable[[StoreError | InternalError | None], None]
    ) -> None:
        """Hand over a batch, and return at once. `done` gets None when it is durable, or why it never will be.

        After a batch that was refused, all later ones under the same claim are refused for the same reason.
        """

    def request_cancel(self, run_id: str, at: float) -> RunState:
        """Ask the run to stop, whoever owns it. Returns its state.

        One that no process works on (PENDING, WAITING, INTERRUPTED, MISMATCH) becomes CANCELLED at once, and in the same
        transaction its parent is due; one that has SUCCEEDED, FAILED or is CANCELLED stays as it is. `run_id` is the whole id.
        """
        ...

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        """Run `work` in one transaction on the side tables, and return what it returns, durable. It is given a
        connection to call `Query`s with. It may be run again where an answer was lost: it must not mind.
        """
        ...

    def ask(self, query: Callable[..., Any], **given: Any) -> list[Any]:
        """One question to the side tables, a `Query` and its parameters: all rows of the answer."""
        ...

    # ---- read: the engine -------------------------------------------------------------------

    def frontier(self, run_number: int) -> Frontier:
        """All that is left to do. Reads no values, and costs in proportion to what is left.

        An expanded map that is unfinished reads its items: they are among `ended_inputs`.
        """
        ...

    def values(self, run_number: int, seqs: Sequence[int]) -> dict[int, Value]:
        """Recorded values of SUCCEEDED steps."""
        ...

    def failures(self, run_number: int, seqs: Sequence[int]) -> dict[int, tuple[StepState, Failure]]:
        """How ended steps that did not succeed ended, `Failure.pickled` included."""
        ...

    def recorded_calls(self, run_number: int) -> Iterator[RecordedCall]:
        """All recorded steps, in the order of seq, without loading them at once."""
        ...

    def saved_state(self, run_number: int, instance: int) -> SavedState:
        """What rebuilds the object that step `instance` created. Raises RunNotFound if there is no such step."""
        ...

    def finish_order(self, run_number: int, seqs: Sequence[int]) -> dict[int, int]:
        """Of those of `seqs` that have ended: their place in the order of completion."""
        ...

    # ---- read: people -----------------------------------------------------------------------

    def find_run(self, prefix: str) -> RunRecord:
        """The run whose id begins with `prefix`. Raises RunNotFound, also when several do (it names them)."""
        ...

    def find_runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        """Those of these runs that there are, by their whole ids."""
        ...

    def runs(self, which: RunFilter) -> list[RunRecord]: ...

    def standings(self, ids: Sequence[str]) -> list[Standing]:
        """How these runs stand, in no order: one question, however many there are. Whole ids; unknown ones are left out."""
        ...

    def steps(
        self,
        run_number: int,
        *,
        key: str | None = None,
        seqs: Sequence[int] | None = None,
        states: Sequence[StepState] = (),
        after: int = -1,
        limit: int | None = None,
    ) -> list[StepRecord]:
        """Steps in the order of seq. `key`: exactly this one; `seqs`: these; `after`: those with a greater seq."""
        ...

    def counts(self, run_number: int) -> dict[tuple[str, StepState], int]:
        """(function name, stored state) -> number of steps."""
        ...

    def steps_done(self, run_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        """How many steps of each of these runs have succeeded, and how many it has; runs without any are left out. One
        question, which looks at each step: of a run with very many ask for `counts`."""
        ...

    def outside(self, run_numbers: Sequence[int], limit: int) -> list[OutsideStep]:
        """Of each of these runs the first `limit` unfinished steps that the world ends, in the order of seq. One question."""
        ...

    def edges(self, run_number: int) -> Iterator[tuple[int, int]]:
        """(seq of the step that reads, seq of the step that is read), ordered, each pair once."""
        ...

    def attempts(self, run_number: int, seq: int | None = None, open_only: bool = False) -> list[AttemptRecord]:
        """Attempts in the order of (seq, number), without `Failure.pickled`. `open_only`: those with no outcome."""
        ...

    def definitions(self, run_number: int) -> list[Definition]: ...

    def events(self, run_number: int) -> list[EventRecord]: ...

    # ---- lifetime ---------------------------------------------------------------------------

    def remove_run(
        self, run_id: str, alive: Callable[[ProcessRecord], bool], at: float, seen: EndedRun | None = None
    ) -> None:
        """The run is gone, in one short transaction. What else there was of it can't be reached; `clear_removed` frees
        the room. Raises RunNotFound; RunOwned while a live process works on it; RunConflict if it is not as it was
        `seen`, or pinned."""

    def clear_removed(self) -> bool:
        """Clear away some of what is left of removed runs, in a bounded transaction. False: nothing was left."""
        ...

    def expire_values(self, run: EndedRun, at: float) -> bool:
        """The run's values may go: from now on it keeps no artifact, and can't be claimed. `clear_expired` frees the
        room. False, and nothing has changed, if the run is not as it was seen, or pinned."""
        ...

    def ended_runs(self, before: float, after: int, limit: int) -> list[EndedRun]:
        """Runs that have ended, and are neither paused nor pinned: of those that were begun before then, the first with
        numbers above `after`."""
        ...

    def artifacts_of(self, run_number: int) -> Iterator[tuple[str, int]]:
        """Digest and size of the artifacts that steps, calls and saved states of the run name; some more than once."""
        ...

    def clear_expired(self) -> bool:
        """Clear away what is left of one expired run's values, in bounded transactions. False: nothing was left."""
        ...

    def expired_runs(self) -> dict[int, float]:
        """Numbers of the runs whose values may be gone, and since when."""
        ...

    def referenced(self, digests: Iterable[str]) -> set[str]:
        """Those of `digests` that steps, calls or saved states name, and that have not expired."""
        ...

    def payloads(self) -> set[str]:
        """The digests of all artifacts that are named elsewhere: by runs themselves, and by side tables."""
        ...

    def codes(self, after: int = 0) -> tuple[set[str], int]:
        """The packs of code that runs with numbers above `after` were started with, and the greatest number there is."""
        ...

    def forget_processes(self, alive: Callable[[ProcessRecord], bool], at: float) -> int:
        """Clear away the rows of processes that own no run, and that are dead or, where there are leases, have been
        silent since `at`; returns their number."""
        ...

    # ---- the store itself -------------------------------------------------------------------

    def figures(self) -> Figures:
        """Sizes, from what the database knows without reading everything."""
        ...

    def census(self) -> tuple[dict[RunState, int], dict[str, int]]:
        """How many runs there are in each stored state, and of each workflow."""
        ...

    def check(self) -> dict[str, Any]:
        """Whether the store is sound: its `figures`, and `integrity`: "ok", or what is wrong, for which every page is
        read. For `db check` and `doctor`."""
        ...


class EndedRun(NamedTuple):
    """As little of a run as says whether it may go. `token`: it is the same as long as nobody has claimed the run."""

    number: int
    id: str
    state: RunState
    token: int
    created_at: float
    finished_at: float | None
    steps: int


class Figures(NamedTuple):
    """bytes: that the database takes, with its indexes. free_bytes: of these, what the next rows are written to. durability:
    "ok", or why what was recorded may get lost all the same."""

    revision: str
    bytes: int
    free_bytes: int
    runs: int
    steps: int
    durability: str = "ok"


class StoredArtifact(NamedTuple):
    """`put_at`: when it was put last, also by somebody who found it there."""

    digest: str
    size: int
    put_at: float


class ArtifactStore(Protocol):
    """Bytes under their SHA-256. Writing the same bytes twice, also at once, is harmless."""

    url: str

    def put(self, digest: str, size: int, source: bytes | int, offset: int = 0) -> None:
        """Make the bytes durable (temporary name, fsync, rename, fsync of the folder). `source`: bytes, or an open
        file descriptor that is read from `offset`. Raises StoreFull or StoreUnavailable."""

    def forget_copy(self, digest: str) -> None:
        """Let the next look be at what all machines have, not at a copy that this one keeps."""

    def local_path(self, digest: str, size: int) -> str:
        """The path of a local file with the bytes, to be mapped; fetched first where the artifacts are elsewhere.

        Raises ArtifactMissing, or ArtifactDamaged if the size is wrong. The digest is checked by whoever maps it.
        """
        ...

    def exists(self, digest: str) -> bool: ...

    def sweep(self) -> int:
        """Remove temporary files whose writer is dead; returns their number."""
        ...

    def listed(self, shard: str) -> Iterator[StoredArtifact]:
        """The artifacts whose digest begins with these two hex digits."""
        ...

    def drop(self, digest: str) -> None:
        """Remove what lies under the digest, also from caches: it is damaged."""

    def discard(self, digest: str, before: float, wanted: Callable[[], bool]) -> int:
        """Remove the artifact, unless it was put since `before`, or is `wanted`: asked when nobody can put it in
        between, or, where that can't be had, as long as `before` is far enough back. Returns the bytes that are freed."""
        ...

    def close(self) -> None: ...
