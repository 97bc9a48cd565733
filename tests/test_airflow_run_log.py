"""What of a run goes to the log of its Airflow task. Needs no Airflow."""

from __future__ import annotations

import logging

from dagengine.airflow_plugin.run_log import NOTICES_SHOWN, RunLog, clean, duration
from dagengine.model import RunState
from dagengine.progress import Progress, TaskProgress

Said = list[tuple[int, str]]


def log() -> tuple[RunLog, Said]:
    said: Said = []
    return RunLog(lambda level, text: said.append((level, text)), 0.0, "/srv/my runs.db"), said


def progress(*counts: tuple[int, int], notices: tuple[str, ...] = (), before: int = 0) -> Progress:
    """counts: (done, total) of one task after the other."""
    tasks = tuple(
        TaskProgress(f"task{index}", total, done, 0, 0, 0, 0, None, before)
        for index, (done, total) in enumerate(counts)
    )
    return Progress("1a2b3c4d5e6f7a8b", "nightly", RunState.RUNNING, tasks, 0.0, notices)


def test_a_hundred_thousand_steps_are_a_few_lines() -> None:
    """Twice a second for an hour somebody looks; there is a sign of life every half minute, and the end."""
    watched, said = log()
    for turn in range(7_200):
        watched.update(progress((turn * 14, 100_000)), turn / 2)
    watched.update(progress((100_000, 100_000)), 3_600.0)
    assert 100 < len(said) < 130
    assert said[0] == (logging.INFO, "task0 840 of 100,000 done (30.0 s)")
    assert said[-1] == (logging.INFO, "task0: 100,000 of 100,000 steps done (1 h 0 min)")


def test_a_run_in_which_nothing_moves_is_not_said_to_live() -> None:
    """The same line again would be no news."""
    watched, said = log()
    for turn in range(7_200):
        watched.update(progress((5, 10)), turn / 2)
    assert len(said) == 1


def test_what_goes_wrong_is_said_once_and_at_its_level() -> None:
    """A retry is a warning, a failure an error; what comes after the first 200 is where to look for it."""
    watched, said = log()
    notices = ("w/a[0] failed and is tried again in 1.0 s: ValueError: x", "w/a[0] failed: ValueError: x")
    for _ in range(3):
        watched.update(progress((0, 1), notices=notices), 1.0)
    assert said == [(logging.WARNING, notices[0]), (logging.ERROR, notices[1])]
    watched.update(progress((0, 1), notices=tuple(f"w/a[{index}] failed: x" for index in range(1_000))), 2.0)
    assert len(said) == NOTICES_SHOWN + 1
    assert said[-1] == (
        logging.WARNING,
        "further ones are not shown: dagengine errors 1a2b3c4d5e6f --store '/srv/my runs.db'",
    )


def test_tasks_that_were_done_before_are_not_said_again() -> None:
    """A retry's log tells what the retry does."""
    watched, said = log()
    watched.update(progress((3, 3), before=3), 1.0)
    assert said == []


def test_nothing_in_a_step_can_look_like_another_line_of_the_log() -> None:
    """Control characters are escaped, and long texts cut."""
    assert clean("a\n[error] forged\x1b[2J") == "a\\n[error] forged\\x1b[2J"
    assert len(clean("x" * 10_000)) == 1_001


def test_durations_are_short() -> None:
    """Seconds, minutes, hours."""
    assert [duration(seconds) for seconds in (0.04, 59.94, 61, 7_261)] == ["0.0 s", "59.9 s", "1 min 1 s", "2 h 1 min"]
