"""A run's progress, as lines and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dagengine.cli import live
from dagengine.cli.lines import SIGN_OF_LIFE, Lines, Quiet
from dagengine.cli.live import LiveDisplay
from dagengine.model import RunState
from dagengine.progress import Progress, TaskProgress


def task(name: str, total: int, done: int = 0, **counts: int) -> TaskProgress:
    of = {"running": 0, "failed": 0, "skipped": 0, "retrying": 0, **counts}
    return TaskProgress(name, total, done, mean_seconds=0.5, **of)


def progress(*tasks: TaskProgress, notices: tuple[str, ...] = (), state: RunState = RunState.RUNNING) -> Progress:
    return Progress("7f3a", "nightly", state, tasks, 100.0, notices)


def test_a_task_is_one_line_when_all_of_it_has_ended() -> None:
    """Once, and again only if more of it was called."""
    lines: list[str] = []
    display = Lines(100.0, lines.append)
    display.update(progress(task("extract", 3, 1)), 101.0)
    display.update(progress(task("extract", 3, 3), task("merge", 1)), 102.0)
    display.update(progress(task("extract", 3, 3), task("merge", 1)), 103.0)
    display.update(progress(task("extract", 3, 3), task("merge", 1, failed=1), task("publish", 2, skipped=2)), 104.0)
    display.update(progress(task("extract", 4, 4), task("merge", 1, failed=1), task("publish", 2, skipped=2)), 105.0)
    assert lines == [
        "  extract: 3 steps done (2.0 s)",
        "  merge: 1 failed (4.0 s)",
        "  publish: 2 skipped (4.0 s)",
        "  extract: 4 steps done (5.0 s)",
    ]


def test_notices_are_lines_once_and_clean() -> None:
    """They are only ever added to."""
    lines: list[str] = []
    display = Lines(100.0, lines.append)
    display.update(progress(notices=("a failed: \x1b[31mboom",)), 101.0)
    display.update(progress(notices=("a failed: \x1b[31mboom", "b failed")), 102.0)
    assert lines == ["  a failed: boom", "  b failed"]


def test_a_long_task_gives_a_sign_of_life() -> None:
    """Every ten seconds in which something has ended; of what goes on only."""
    lines: list[str] = []
    display = Lines(100.0, lines.append)
    display.update(progress(task("extract", 90, 1), task("done", 0)), 100.5)
    before = len(lines)
    for second in range(1, 21):
        display.update(progress(task("extract", 90, 1 + second), task("done", 0)), 100.5 + second)
    for second in range(60):
        display.update(progress(task("extract", 90, 21), task("done", 0)), 130.0 + second)
    assert lines[before:] == ["  extract 11/90 (10.5 s)", "  extract 21/90 (20.5 s)"]
    assert SIGN_OF_LIFE == 10.0


def test_quiet_shows_only_what_has_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as that it drains."""
    display = Quiet()
    display.update(progress(task("extract", 1)), 1.0)
    display.say("draining")
    display.close()
    assert capsys.readouterr().err == "draining\n"


class Screen:
    """A live display on a terminal in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, height: int = 30) -> None:
        self.out = io.StringIO()

        def console(**options: object) -> Console:
            return Console(
                file=self.out, force_terminal=True, width=100, height=height, color_system=None, highlight=False
            )

        monkeypatch.setattr(live, "Console", console)
        self.display = LiveDisplay("7f3a", 100.0)

    def frame(self, shown: Progress, now: float) -> list[str]:
        """What an update draws anew."""
        self.out.seek(0)
        self.out.truncate()
        self.display.update(shown, now)
        return [line.split("\x1b[2K")[-1].rstrip() for line in self.out.getvalue().splitlines()]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Thirty lines high."""
    return Screen(monkeypatch)


def test_a_frame_has_the_run_and_a_row_for_each_task(screen: Screen) -> None:
    """Done, running, failed, time left."""
    frame = screen.frame(
        progress(task("extract", 12, 5, running=2), task("merge", 1), task("bad", 2, 1, failed=1)), 104.0
    )
    screen.display.close()
    assert frame[0] == "● nightly  7f3a  running  4.0 s"
    rows = {line.split()[1]: line for line in frame[1:4]}
    assert "5/12" in rows["extract"]
    assert "2 running" in rows["extract"]
    assert "1.8 s left" in rows["extract"]
    assert rows["merge"].startswith("○")
    assert rows["bad"].startswith("✗")
    assert "1 failed" in rows["bad"]


def test_a_task_that_was_skipped_is_not_shown_as_done(screen: Screen) -> None:
    """Its mark is the one of skipped steps."""
    frame = screen.frame(progress(task("publish", 1, skipped=1), task("extract", 1, 1)), 104.0)
    screen.display.close()
    assert frame[1].startswith("↷ publish")
    assert frame[2].startswith("✓ extract")


def test_a_frame_is_drawn_when_something_has_changed(screen: Screen) -> None:
    """A fraction of a second is no change."""
    same = progress(task("extract", 12, 5))
    assert screen.frame(same, 104.0)
    assert screen.frame(same, 104.2) == []
    assert screen.frame(same, 105.0)
    assert screen.frame(progress(task("extract", 12, 6)), 105.1)
    screen.display.close()


def test_a_rate_is_taken_over_the_last_seconds(screen: Screen) -> None:
    """And is what the time left comes from, where steps are quick."""
    screen.frame(progress(task("extract", 1000, 0)), 104.0)
    frame = screen.frame(progress(task("extract", 1000, 100, running=2)), 106.0)
    screen.display.close()
    row = next(line for line in frame if "extract" in line)
    assert "50/s" in row
    assert "18.0 s left" in row


def test_notices_scroll_by_above(screen: Screen) -> None:
    """They stay on the terminal when the frame goes on."""
    frame = screen.frame(progress(task("extract", 1), notices=("extract[0] failed",)), 104.0)
    screen.display.close()
    assert frame.index("  extract[0] failed") < frame.index("● nightly  7f3a  running  4.0 s")


def test_a_low_terminal_shows_what_matters_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs or failed, then what waits; the rest is counted."""
    screen = Screen(monkeypatch, height=9)
    tasks = [task(f"done{index}", 2, 2) for index in range(10)]
    tasks += [task("running", 5, 1, running=1), task("bad", 2, 1, failed=1)]
    frame = screen.frame(progress(*tasks), 104.0)
    screen.display.close()
    text = "\n".join(frame)
    assert "running" in text
    assert "✗ bad" in text
    assert "and 8 more tasks: 16 of 16 steps done" in text


def test_closing_twice_is_harmless(screen: Screen) -> None:
    """The cursor is given back once."""
    screen.display.close()
    screen.display.close()
    assert screen.out.getvalue().count("\x1b[?25h") == 1
