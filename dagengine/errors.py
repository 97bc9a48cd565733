"""Every error a user can meet, by who has to act. Imports nothing of ours.

    DagengineError
    ├── DefinitionError          the author of the workflow
    │   ├── RefMisuse              a ref was used as if it were the value
    │   ├── BadOption              an option of a task or workflow is out of range or unknown
    │   ├── BadArguments           a call that does not fit the signature
    │   ├── TooDeep                deferred calls go deeper than max_depth
    │   ├── LoadError              a workflow's file, module or name can't be loaded
    │   ├── CodeNotPacked          the project's modules that a workflow reaches can't be kept with its run
    │   └── Unpicklable            a value can't be sent to another process (names the path to it)
    ├── StepError                the author of the task (their own exception is raised as it was, when it can be)
    │   ├── StepFailed             stands in for an exception that can't be brought back
    │   ├── SqlFailed              a database refused a query or statement of `sql`
    │   ├── StepTimeout            an attempt ran past its timeout
    │   ├── EventTimeout           nobody sent what a step waited for, in time
    │   ├── Rejected               somebody said no to what a run asked approval for
    │   ├── StepUnknown            a step that is started at most once, and nobody knows what it did
    │   ├── StepSkipped            not run, because a step it depends on failed
    │   └── StepCancelled          not run to its end, because the run was cancelled
    ├── RunError                 whoever started the run
    │   ├── RunFailed, RunCancelled, RunInterrupted
    │   ├── RunMismatch            the code called something else than what is recorded
    │   ├── RunNotFound, RunExists
    │   ├── RunConflict            what was asked of a run or step does not fit its state
    │   ├── RunOwned               another live process works on the run
    │   └── RunPinned              somebody wants to keep the run
    ├── TaskError                the author of a task that was called without a workflow (dagengine.runtime)
    │   ├── TaskFailed             stands in for an exception that can't be brought back
    │   ├── TaskTimeout            the task ran past its timeout
    │   ├── TaskCancelled          not run to its end, because it was cancelled
    │   ├── WaitTimeout            no result within the time that the caller was willing to wait
    │   └── Deadlock               it waited for what can only come after itself
    ├── RuntimeFault             the operator of the machine
    │   ├── WorkerLost             a worker died while it ran the step (named: signal, out of memory, exit code)
    │   ├── Infeasible             a step asks for more than there is
    │   └── RuntimeStopped
    └── StoreError               the operator of the store
        ├── StoreUnavailable, StoreForeign, StoreNewer, StoreOutdated, StoreFull
        │   └── StoreUnsupported     no store that can be opened here, now or later
        ├── Fenced                 this process no longer owns the run
        └── ArtifactMissing, ArtifactDamaged

    InternalError                us: a broken invariant. Outside the tree, so that nobody catches it by accident.

Each message is one line: what is wrong (where), and what to do. `exit_status` is what the command line ends with.
"""

from __future__ import annotations

from typing import Any, Final

READ_ONLY: Final = "Values are read in place, where others read them, too: change a copy (x = x.copy())."
"""A note on what NumPy, and what is built on it, raises for writing into a value."""


def _rebuild(cls: type[DagengineError], args: tuple[Any, ...], fields: dict[str, Any]) -> DagengineError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class DagengineError(Exception):
    """The root. Subclasses take fields, keep them as attributes, and survive pickling."""

    exit_status = 1

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


# ---- the author of the workflow -----------------------------------------------------------


class DefinitionError(DagengineError):
    exit_status = 2


class RefMisuse(DefinitionError, TypeError):
    """A ref (a promise of a step's value) was used as if it were the value."""


class AttributeMisuse(RefMisuse, AttributeError):
    """RefMisuse by asking for an attribute: also an AttributeError, so that `hasattr` answers False."""


class BadOption(DefinitionError, ValueError):
    """An option is unknown, of the wrong type, or out of range."""


class BadArguments(DefinitionError, TypeError):
    """A call's arguments do not fit the function's signature."""


class TooDeep(DefinitionError, RecursionError):
    """A task defers calls that defer calls, and so on, deeper than its option max_depth."""


class LoadError(DefinitionError, ImportError):
    """A workflow's file, module or name can't be loaded."""


class CodeNotPacked(DefinitionError):
    """The project's modules that a workflow reaches can't be kept with its run: too many, too large, unreadable."""


class Unpicklable(DefinitionError, TypeError):
    """A value can't be sent to another process. `path` leads to the part that can't."""

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(
            f"{what} can't be pickled: {path}: {reason}. Pass plain data, or make the object inside of the task.",
            what=what,
            path=path,
            reason=reason,
        )

    what: str
    path: str
    reason: str


# ---- outcomes of steps --------------------------------------------------------------------


class StepError(DagengineError):
    """`key`: the step's key."""

    key: str


class StepFailed(StepError):
    """The step raised an exception that can't be brought back as an object; its text is here."""


class SqlFailed(StepError):
    """A database refused what `sql` asked of it. The text is the database's."""


class StepTimeout(StepError, TimeoutError):
    """An attempt ran past `timeout`, in seconds, and was ended."""

    timeout: float


class EventTimeout(StepError):
    """Nobody sent `event` in the time that the step waited for it."""

    event: str


class Rejected(StepError):
    """Somebody said no: `by` whom, `why`, and `at` what time."""

    by: str
    why: str
    at: float


class StepUnknown(StepError):
    """The step is `at_most_once`, was started in `attempt`, and nobody knows whether it did anything."""

    attempt: int


class StepSkipped(StepError):
    """The step did not run, because `cause` (a step's key) failed, was skipped or cancelled."""

    cause: str


class StepCancelled(StepError):
    """The run was cancelled before the step's end."""


# ---- outcomes of tasks without a workflow ---------------------------------------------------


class TaskError(DagengineError):
    """`task`: the task's name."""

    task: str


class TaskFailed(TaskError):
    """The task raised an exception that can't be brought back as an object; its text is here."""


class TaskTimeout(TaskError, TimeoutError):
    """The task ran past its `timeout`, and was ended."""


class TaskCancelled(TaskError):
    """The task, or one that it reads from, was cancelled before its end."""


class WaitTimeout(TaskError, TimeoutError):
    """There was no result within the timeout of the wait. The task goes on."""


class Deadlock(TaskError):
    """The task waited for a result that can only come when the task itself has ended."""


# ---- outcomes of runs ---------------------------------------------------------------------


class RunError(DagengineError):
    """`run_id`: the run's id."""

    run_id: str


class RunFailed(RunError):
    """The run ended with failed steps, or its body raised. `__cause__` is the first exception; `failed` the steps' keys."""

    failed: tuple[str, ...]


class RunTimeout(RunError, TimeoutError):
    """The run was still working when its timeout was over. What has not ended is done by a resume."""


class RunCancelled(RunError):
    exit_status = 1


class RunInterrupted(RunError):
    """The run was told to stop (Ctrl-C, SIGTERM, the engine was closed) and can be resumed."""

    exit_status = 130


class RunMismatch(RunError):
    """On replay the body called something else than what is recorded. The record stands; `difference` shows both."""

    key: str
    difference: str


class RunNotFound(RunError):
    exit_status = 3


class RunExists(RunError):
    exit_status = 4


class RunConflict(RunError):
    """What was asked of the run, or of one of its steps, does not fit the state that it is in."""

    exit_status = 4


class RunOwned(RunError):
    """Another live process works on the run. `owner` says which: host, pid, since."""

    exit_status = 4
    owner: str


class RunPinned(RunError):
    """Somebody wants to keep the run that is to be removed."""

    exit_status = 4


# ---- the machine --------------------------------------------------------------------------


class RuntimeFault(DagengineError):
    exit_status = 1


class WorkerLost(RuntimeFault):
    """Workers died while they ran the step, more often than its budget allows. `cause` names the last death."""

    cause: str


class Infeasible(RuntimeFault):
    """A step asks for more than this machine has."""

    exit_status = 2


class ObjectStoreFull(RuntimeFault):
    """There is no room for a value: neither in the memory for objects nor where they are spilled."""


class ObjectLost(RuntimeFault):
    """A value that only memory or a spill file held is gone, and can't be made again."""


class OutOfMemory(RuntimeFault):
    """A task had more memory than there is for it, with nobody beside it."""


class ActorLost(RuntimeFault):
    """The process that held an actor's state is gone, or the actor was ended."""


class RuntimeStopped(RuntimeFault):
    """The runtime was closed, or one of its own processes died."""


# ---- the store ----------------------------------------------------------------------------


class StoreError(DagengineError):
    """`store`: its URL, without secrets."""

    exit_status = 5
    store: str


class StoreUnavailable(StoreError):
    """The store can't be opened, read or written."""


class StoreUnsupported(StoreUnavailable):
    """The URL says no store that this installation can open: another kind, written wrong, or its driver is missing."""


class StoreForeign(StoreError):
    """The database belongs to another application, or is not a database."""


class StoreNewer(StoreError):
    """The store's schema was written by a newer dagengine."""


class StoreOutdated(StoreError):
    """The store's schema is older than this dagengine's; `dagengine db upgrade` brings it up to date."""


class StoreFull(StoreError):
    """No space is left where the store or its artifacts lie."""


class Fenced(StoreError):
    """The write carried an old fencing token: another process has taken the run over."""

    exit_status = 4


class ArtifactMissing(StoreError):
    """A recorded value's bytes are gone. `digest` names them."""

    digest: str


class ArtifactDamaged(StoreError):
    """A recorded value's bytes are not the recorded ones. `digest` names them."""

    digest: str


class InternalError(Exception):
    """A broken invariant of ours. Please report it."""

    exit_status = 70
