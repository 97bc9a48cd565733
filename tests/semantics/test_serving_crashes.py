"""Who submits, serves and schedules dies before or after each write: every run is worked on once, and no place is lost.

One life is a client's submissions and a server's work on them, with hosts that work in this process. It dies; another one
does the same again, as people and supervisors do, and finds what there is.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dagengine import config, context, task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadOption, RunExists
from dagengine.model import RunRecord, RunState
from dagengine.runtime.inline import InlineRuntime
from dagengine.serving import serve
from dagengine.serving.schedules import When, create_schedule, find_schedule
from dagengine.serving.submission import Submission, submit
from dagengine.storage import open_artifacts, queues, servers
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.queue_rules import QueueSettings
from dagengine.storage.sqlite import SqliteStore
from dagengine.testing.crashes import MEMORY, _end_all
from dagengine.testing.mortal import Fate, MortalStore, ProcessDied, passing_for_dead
from tests.semantics.conftest import STORES, emptied_postgres

DAY = 86_400.0
NOW = 2 * DAY + 100
ROUNDS = 12
"""Looks of a server until everything has ended: the runs of one key come one after the other."""

executed: Counter[str] = Counter()
numbers = itertools.count()


@task
def double(x: int) -> int:
    executed[str(context().run_id)] += 1
    return 2 * x


@workflow
def doubled(x: int) -> int:
    return double(x)


class Inside:
    """In the place of a server's hosts: works on what it is given when it is asked to, in this process."""

    def __init__(self, work: Callable[[RunRecord], str], ended: Callable[[str, str], None]) -> None:
        self._work, self._ended = work, ended
        self._held: dict[str, RunRecord] = {}
        self.count = 0
        self.fit = True

    @property
    def runs(self) -> set[str]:
        return set(self._held)

    def assign(self, runs: Iterable[RunRecord]) -> None:
        self._held |= {run.id: run for run in runs}

    def work(self) -> None:
        while self._held:
            run = self._held.pop(next(iter(self._held)))
            self._ended(run.id, self._work(run))

    def keep_spare(self, wanted: bool) -> None: ...

    def kill(self) -> None: ...


class Life:
    """A process on a store, which dies as its fate has it."""

    def __init__(self, store: Store, fate: Fate, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = config.load(home=folder)
        self.fate, self._monkeypatch = fate, monkeypatch
        self.store = cast(Store, MortalStore(store, fate))
        self.artifacts = open_artifacts(self.settings.artifacts.value, cache=str(folder / "cache"))

    def live(self) -> None:
        with contextlib.suppress(ProcessDied):
            self.submit()
            self.serve()
        self.artifacts.close()

    def submit(self) -> None:
        """As a client does that does not know what it has done before."""
        if "q" not in queues.queues(self.store):
            queues.save_queue(self.store, "q", QueueSettings(concurrency=1))
        with contextlib.suppress(BadOption):  # it is there
            create_schedule(self.store, "daily", (doubled, (1,), {}), When("@daily", queue="q"), lambda: DAY)
        for run_id, how in {
            "first": Submission(dedup="D"),
            "second": Submission(dedup="D", duplicate="replace"),
            "third": Submission(queue="q", key="k"),
        }.items():
            with contextlib.suppress(RunExists):
                submit(
                    self.store, self.artifacts, self.settings.control, (doubled, (3,), {}), replace(how, run_id=run_id)
                )

    def serve(self) -> None:
        with self._monkeypatch.context() as patched:
            patched.setattr(serve, "open_store", lambda url: self.store)
            server = serve.Server(self.settings, clock=lambda: NOW)
        server.process = passing_for_dead(replace(server.process, id=f"server-{next(numbers)}"))
        hosts = Inside(self._work, server._run_ended)
        server._hosts = cast(Any, hosts)
        try:
            server._seen()
            for _ in range(ROUNDS):
                server._settle(NOW)
                server._hand_out(NOW)
                if not hosts.runs and not queues.counts(self.store):
                    break
                hosts.work()
        finally:
            with contextlib.suppress(ProcessDied):
                server._close()

    def _work(self, run: RunRecord) -> str:
        engine = Engine(self.store, home=self.settings.home.value, runtime=InlineRuntime(), wakes=False)
        engine.process = passing_for_dead(replace(engine.process, id=f"host-{next(numbers)}"))
        self.fate.died = lambda: _end_all(engine)
        with engine:
            try:
                found = engine.resume(run.id, reopen=False)
                assert found.wait(300)
            finally:
                if self.fate.doomed:
                    self.fate.gone.wait(300)
                    _end_all(engine)
                    engine.close(force=True)
            self.fate.check()
            return str(found.state)


@pytest.fixture
def folder_of_all() -> Iterator[Path]:
    """In memory: processes die, not the machine."""
    with tempfile.TemporaryDirectory(prefix="dagengine-", dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def emptied(kind: str, folder: Path, postgres: Callable[[], Store] | None) -> Iterator[Store]:
    folder.mkdir()
    store = MemoryStore() if kind == "memory" else SqliteStore(f"{folder}/a.db") if postgres is None else postgres()
    try:
        yield store
    finally:
        store.close()


@pytest.mark.parametrize("kind", STORES)
def test_who_submits_and_serves_may_die_at_any_write(
    kind: str, folder_of_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is replaced is never worked on, all others succeed, the occurrence of a schedule is begun once, and the
    queues are empty in the end, so that nobody waits for a place that nobody has."""
    postgres = emptied_postgres() if kind == "postgres" else None
    dead = 0
    for at in itertools.count(1):
        doomed = False
        # Before a write there is what there was after the one before it: where a case takes long, one of them will do.
        for after in (False, True) if kind == "memory" or at == 1 else (True,):
            executed.clear()
            folder = folder_of_all / f"{at}-{after}"
            with emptied(kind, folder, postgres) as store:
                fate = Fate(at, after)
                Life(store, fate, folder, monkeypatch).live()
                doomed = doomed or fate.doomed
                Life(store, Fate(), folder, monkeypatch).live()
                states = {run.id: run.state for run in store.runs(RunFilter())}
                assert states == {
                    "first": RunState.CANCELLED,
                    "second": RunState.SUCCEEDED,
                    "third": RunState.SUCCEEDED,
                    "daily.19700103T000000Z": RunState.SUCCEEDED,
                }, f"{at} {after} {fate.fatal}"
                assert "first" not in executed
                assert set(executed.values()) <= {1, 2}
                assert sum(executed.values()) <= 4, "more than one step was begun again"
                assert queues.counts(store) == {}
                assert find_schedule(store, "daily").next_at == 3 * DAY
                assert servers.servers(store) == {}
        if not doomed:
            break
        dead += 1
    assert dead > 20
