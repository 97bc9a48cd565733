"""`Client`: what a program does with a store when it has no engine of its own: submit runs, look at them, and ask for more.

It works on no run: those are left to `dagengine serve`, or to whoever has them. Nothing is opened before it is needed; all
methods may be called from any thread. Any `DagengineError` may be a `StoreError`.

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dagengine import config
from dagengine.errors import BadOption, RunConflict, RunError, RunExists, RunOwned, StoreUnavailable
from dagengine.identity import is_alive, this_process
from dagengine.model import RunRecord, RunState, Standing, StepRecord
from dagengine.validation import did_you_mean
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.awaited import Awaited
    from dagengine.serving.submission import Submission
    from dagengine.storage.interface import ArtifactStore, Store
    from dagengine.storage.reading_sql import Found
    from dagengine.workflows import Workflow


class Client:
    """Runs of a store. A context manager; closing twice is harmless.

    store: a path or URL; None: the configured one
    artifacts: where large values go; None: beside the store
    home: the folder of settings, and of the default store
    make: False: a store that is not there is StoreUnavailable, and is not made
    """

    def __init__(
        self,
        store: str | Path | None = None,
        *,
        artifacts: str | Path | None = None,
        home: str | Path | None = None,
        make: bool = True,
    ) -> None:
        self._make = make
        self.settings = config.load(store=store, artifacts=artifacts, home=home)
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._artifacts: ArtifactStore | None = None
        self._later: dict[str, str] = {}  # a run that goes on in another one -> the last that is known of

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            for opened in (self._store, self._artifacts):
                if opened is not None:
                    opened.close()
            self._store = self._artifacts = None

    @property
    def store(self) -> Store:
        """The open store; made if it is not there, and may be. Raises StoreError."""
        with self._lock:
            if self._store is None:
                self._store = self._open()
            return self._store

    def _open(self) -> Store:
        from dagengine.storage import open_store
        from dagengine.storage.opening import open_existing

        url = self.settings.store.value
        found = None if self._make else open_existing(url)
        if found is None and not self._make:
            place = config.without_password(url)
            raise StoreUnavailable(
                f"there is no store at {place}. Correct the path or URL, or look where it is gone.", store=place
            )
        config.create_private(self.settings.folder)
        return open_store(url) if found is None else found

    @property
    def artifacts(self) -> ArtifactStore:
        with self._lock:
            if self._artifacts is None:
                from dagengine.storage import open_artifacts

                cache = str(self.settings.folder / "cache")
                self._artifacts = open_artifacts(self.settings.artifacts.value, cache=cache)
            return self._artifacts

    # ---- SQL on its tables ------------------------------------------------------------------------

    def connect(self) -> Any:
        """A DB-API connection (of sqlite3 or psycopg) to the store's tables that can only read. Raises StoreUnavailable,
        also if the store is not there."""
        from dagengine.storage import reading_sql

        return reading_sql.connect(self.settings.store.value)

    def sqlalchemy_url(self) -> Any:
        """The `sqlalchemy.URL` of an engine for the same. Secrets included. Raises StoreUnavailable."""
        from dagengine.storage import reading_sql

        return reading_sql.sqlalchemy_url(self.settings.store.value)

    def look(self, seconds: float) -> Found | None:
        """What store there is; None if the first run is to make it. Raises StoreError.

        seconds: for a server that is not there to come up
        """
        from dagengine.storage import reading_sql
        from dagengine.storage.postgres_url import with_connect_timeout

        return reading_sql.look(with_connect_timeout(self.settings.store.value, seconds))

    # ---- beginning ------------------------------------------------------------------------------

    def submit(
        self,
        workflow: Workflow[..., Any] | str,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        how: Submission | None = None,
        facts: dict[str, Any] | None = None,
    ) -> str:
        """Record a run, leave it to whoever serves the store, and return its id; all in one transaction.

        workflow: or "FILE.py:NAME", "package.module:NAME"; facts: further ones of the caller's (JSON), recorded with it.
        Raises LoadError, BadArguments, Unpicklable, BadOption for a queue that is not there; RunExists, if `how.run_id` is
        taken, or a run with the same `how.dedup` stands against it.
        """
        from dagengine.serving import submission

        call = (_loaded(workflow), tuple(args), dict(kwargs or {}))
        how = submission.Submission() if how is None else how
        return submission.submit(self.store, self.artifacts, self.settings.control, call, how, facts=facts)[0]

    def fork(
        self,
        run_id: str,
        *,
        code: str | None = None,
        params: Mapping[str, Any] | None = None,
        how: Submission | None = None,
        facts: dict[str, Any] | None = None,
    ) -> str:
        """As `submit`, a run that shares what another one has done. code="current": but for steps whose code has changed.

        params: arguments of the workflow to change. Raises RunNotFound, RunConflict, BadArguments, LoadError, RunExists.
        """
        from dagengine.code.packing import Shelf
        from dagengine.forks import Place, record_fork
        from dagengine.serving import submission

        place = Place(self.store, self.artifacts, Shelf(self.store, self.settings.folder / "cache" / "code"))
        donor = self.find(run_id)
        how = submission.Submission() if how is None else how

        def record(new_id: str, queued: Any) -> object:
            return record_fork(place, donor, code=code, params=params, run_id=new_id, facts=facts, also=queued)

        return submission.place(self.store, self.settings.control, how, record)[0]

    # ---- looking ----------------------------------------------------------------------------------

    def find(self, run_id: str) -> RunRecord:
        """The run whose id begins with `run_id`. Raises RunNotFound, also if there are several."""
        return self.store.find_run(run_id)

    def known(self, run_id: str) -> RunRecord | None:
        """The run of this whole id, if there is one."""
        from dagengine.continuing import find

        return find(self.store, run_id)

    def state(self, run_id: str) -> RunState:
        """As it is: CRASHED, if its process died. Of a run that goes on in another one, that one's. Raises RunNotFound."""
        from dagengine.continuing import last_of

        return run_state(last_of(self.store, self.find(run_id)))

    def states(self, ids: Iterable[str]) -> dict[str, RunState]:
        """As `state`, of many runs, with one question for all; whole ids, unknown ones are left out.

        A further question follows those that have gone on in another run since the last call.
        """
        from dagengine.continuing import is_continued, successor_id

        asked = list(dict.fromkeys(ids))
        found: dict[str, RunState] = {}
        left = {run_id: self._later.get(run_id, run_id) for run_id in asked}
        while left:
            standings = {standing.id: standing for standing in self.store.standings(list(set(left.values())))}
            goes_on = {}
            for run_id, last in left.items():
                standing = standings.get(last)
                if standing is None:
                    continue
                if standing.state is RunState.SUCCEEDED and is_continued(standing.returned):
                    goes_on[run_id] = self._later[run_id] = successor_id(last)
                else:
                    found[run_id] = _as_it_is(standing)
            left = goes_on
        return found

    def ends(self, awaited: Iterable[Awaited]) -> dict[Awaited, str | None]:
        """How each wait for a run or for steps has ended: a state, None where it goes on (`dagengine.awaited`), with a few
        questions for all; whole ids, unknown ones are left out. Raises BadArguments for a group of steps that can't be."""
        from dagengine.awaited import ends

        return ends(self.store, self.states, awaited)

    def same_call(
        self,
        run_id: str,
        workflow: Workflow[..., Any] | str,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> bool:
        """Whether the run was recorded for this workflow with these arguments. Whole id. Raises RunNotFound, BadArguments.

        A workflow is known by its module and name, not by the folder of its file, which may have been moved or copied.
        """
        from dagengine.calls import canonical_digest
        from dagengine.reading import Reader
        from dagengine.recording import entry_of

        run, loaded = self.find(run_id), _loaded(workflow)
        given = entry_of(loaded)
        if (run.entry.get("module"), run.entry.get("qualname")) != (given.module, given.qualname):
            return False
        args, kwargs = tuple(args), dict(kwargs or {})
        loaded.check_arguments(args, kwargs)
        recorded_args, recorded_kwargs = Reader(self.store, self.artifacts, run.number).call(run.call, run.inputs)
        try:
            recorded = loaded.signature.bind(*recorded_args, **recorded_kwargs).arguments
        except TypeError:
            return False  # its signature has changed since
        return canonical_digest(recorded) == canonical_digest(loaded.signature.bind(*args, **kwargs).arguments)

    def steps(self, run_id: str) -> list[StepRecord]:
        """In the order of recording. Raises RunNotFound."""
        return self.store.steps(self.find(run_id).number)

    def step(self, run_id: str, name: str) -> StepRecord:
        """The step of this key, of this key without its scope, `#12`, or the only one of this task. Raises RunNotFound."""
        from dagengine.views import find_step

        return find_step(self.store, self.find(run_id), name)

    # ---- the end ------------------------------------------------------------------------------------

    def wait(self, run_id: str, timeout: float | None = None) -> RunRecord:
        """The run, or the last of those that it goes on in, when nobody works on it any more. Raises TimeoutError after
        `timeout` seconds; RunNotFound."""
        from dagengine.ending import wait_for_end

        return wait_for_end(self.store, self.settings, self.find(run_id).id, timeout)

    def result(self, run_id: str) -> Any:
        """What the run returned. Raises RunFailed with the failed step's exception as its cause, RunCancelled,
        RunInterrupted, RunMismatch; RunConflict, if it has not ended; LoadError, if this code can't read it."""
        from dagengine.results import read_result

        run = self._last(run_id)
        error = self._error(run)
        if error is not None:
            raise error
        return read_result(self.store, self.artifacts, run)

    def failure(self, run_id: str) -> RunError | None:
        """What `result` would raise."""
        return self._error(self._last(run_id))

    def _last(self, run_id: str) -> RunRecord:
        from dagengine.continuing import last_of

        return last_of(self.store, self.find(run_id))

    def _error(self, run: RunRecord) -> RunError | None:
        from dagengine.code.pinning import import_from_pack
        from dagengine.results import ended_badly

        if run.state is RunState.SUCCEEDED:
            return None
        if not run.state.ended:
            return RunConflict(
                f"run {run.id[:8]} has not ended: it is {run_state(run)}. Wait for it: dagengine wait {run.id[:8]}",
                run_id=run.id,
            )
        with contextlib.suppress(Exception):  # without its classes the failure still has its text
            import_from_pack(self.store, run)
        return ended_badly(self.store, run.id, run.state, run.failure)

    # ---- changing -----------------------------------------------------------------------------------

    def cancel(self, run_id: str, compensate: bool = False) -> RunState:
        """Ask the run to stop for good, or the last of those that it goes on in, and its children. CANCELLED; RUNNING, if its
        owner was asked; or how it had ended.

        compensate: then undo what it did. A run that nobody works on is queued for that. Raises RunNotFound.
        """
        from dagengine.cancelling import cancel_run
        from dagengine.compensating import note

        run = self._last(run_id)
        if compensate and note(self.store, run, time.time()) and run_state(run) is not RunState.RUNNING:
            self._reopen(run, "default", 0)
            return RunState.RUNNING
        return cancel_run(self.store, self.settings.control, run)

    def resume(self, run_id: str, queue: str = "default", priority: int = 0) -> bool:
        """Leave a run that has ended without success to whoever serves the store: it goes on, finished steps are kept.

        True: it was opened again, and queued, in one transaction; False: it is under way, or queued, already. Raises
        RunExists, if it has succeeded; RunConflict, if it is paused or was compensated; BadOption; RunNotFound.
        """
        from dagengine.changes import refuse_paused
        from dagengine.compensating import refuse_over
        from dagengine.continuing import last_of, refuse_early
        from dagengine.serving.submission import is_expected

        run = last_of(self.store, self.find(run_id))
        if run.state is RunState.SUCCEEDED:
            raise RunExists(f"run {run.id[:8]} has succeeded. There is nothing to resume.", run_id=run.id)
        refuse_paused(run)
        refuse_early(self.store, run)
        refuse_over(self.store, run)
        state = run_state(run)
        if state in (RunState.RUNNING, RunState.WAITING) or is_expected(self.store, run.id):
            return False
        try:
            self._reopen(run, queue, priority)
        except RunOwned:
            return False  # somebody was quicker
        return True

    def _reopen(self, run: RunRecord, queue: str, priority: int) -> None:
        """Claim the run, and let go of it in a queue. Who dies in between leaves a run that looks crashed: it is taken over."""
        from dagengine.serving.hints import hint
        from dagengine.serving.submission import Submission
        from dagengine.storage import queues
        from dagengine.storage.writes import FinishRun

        how, now = Submission(queue, priority), time.time()
        known = queues.queues(self.store)
        if how.queue not in known:
            raise BadOption(f"there is no queue {queue!r}.{did_you_mean(queue, known)}")
        errors: SimpleQueue[Exception | None] = SimpleQueue()
        claim = self.store.claim(run.id, this_process(), is_alive)
        entry = queues.Entry(run.id, how.queue, how.priority, submitted_at=now)
        self.store.write(claim, [FinishRun(RunState.INTERRUPTED, now), queues.again(entry)], errors.put)
        error = errors.get()
        if error is not None:
            raise error
        hint(self.store, self.settings.control)


def _as_it_is(standing: Standing) -> RunState:
    owner = standing.owner
    if standing.state is RunState.RUNNING and (owner is None or standing.lease_expired or not is_alive(owner)):
        return RunState.CRASHED
    return standing.state


def _loaded(workflow: Workflow[..., Any] | str) -> Workflow[..., Any]:
    if not isinstance(workflow, str):
        return workflow
    from dagengine.workflows import load

    return load(workflow)
