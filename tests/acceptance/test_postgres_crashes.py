"""As test_crashes.py, with the record on a PostgreSQL server: killed at every third commit, before it and after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_crashes import kill_and_resume
from tests.postgres.server import fresh_schema, shared

STRIDE = 3


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(300)
def test_killed_at_a_commit_on_a_server_the_run_goes_on_without_repeating_a_step(when: str, tmp_path: Path) -> None:
    """A transaction that was sent and not committed is undone by the server; the dead owner is replaced at once."""
    count = 1
    while kill_and_resume(tmp_path / str(count), "commit", when, count, shared().url(fresh_schema())):
        count += STRIDE
    assert count > 2 * STRIDE, "the run had fewer commits than it has steps: nothing was killed"
