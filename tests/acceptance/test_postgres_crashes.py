"""As test_crashes.py and test_owners.py, with the record on a PostgreSQL server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.processes import await_end, of_folder, start
from tests.acceptance.test_crashes import kill_and_resume
from tests.acceptance.test_owners import PROGRAM, RESULT, await_started, ended, let_go
from tests.postgres.server import fresh_schema, shared

STRIDE = 3


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(1800)
def test_killed_at_a_commit_on_a_server_the_run_goes_on_without_repeating_a_step(when: str, tmp_path: Path) -> None:
    """A transaction that was sent and not committed is undone by the server; the dead owner is replaced at once."""
    count = 1
    while kill_and_resume(tmp_path / str(count), "commit", when, count, shared().url(fresh_schema())):
        count += STRIDE
    assert count > 2 * STRIDE, "the run had fewer commits than it has steps: nothing was killed"


def test_a_stopped_owner_that_wakes_after_its_lease_is_refused_and_its_workers_die(tmp_path: Path) -> None:
    """Meanwhile another process has taken the run: the first one says which, ends, and does not disturb it."""
    for pipe in ("started", "go"):
        os.mkfifo(tmp_path / pipe)
    schema = fresh_schema()
    (tmp_path / "store-url").write_text(shared().url(schema, lease="600"))
    first = start(PROGRAM, tmp_path, "begin")
    worker = await_started(tmp_path)
    os.kill(first.pid, signal.SIGSTOP)
    refused = start(PROGRAM, tmp_path, "resume")
    assert ended(refused)[0] == 4, "it was taken over within its lease"
    shared().run(f"UPDATE {schema}.process SET expires_at = 0")
    second = start(PROGRAM, tmp_path, "resume")
    await_started(tmp_path)
    os.kill(first.pid, signal.SIGCONT)
    shared().run(f"SELECT pg_notify('dagengine_' || id, '') FROM {schema}.process WHERE pid = {first.pid}")  # look now
    status, _, errors = ended(first)
    assert status == 4
    assert f"was taken over by process {second.pid} on" in errors
    assert await_end([worker]) == []
    let_go(tmp_path)
    assert ended(second)[:2] == (0, RESULT)
    assert await_end(of_folder(tmp_path)) == []
