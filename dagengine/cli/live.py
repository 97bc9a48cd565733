"""Progress on a terminal: a row for each task, redrawn in place; notices scroll by above it."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dagengine.cli.terminal import MARKS, clean, duration

if TYPE_CHECKING:
    from dagengine.progress import Progress, TaskProgress

BAR = 24  # characters
COLUMNS = {"task": 12, "bar": BAR, "done": 9, "running": 10, "trouble": 0, "rate": 6, "left": 12}
"""The least width of each, so that a number that comes and goes does not move the others."""

RATE_WINDOW = 5.0  # seconds over which a rate is taken


class LiveDisplay:
    def __init__(self, run_id: str, started: float) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="crop",
        )
        self._run_id = run_id
        self._started = started
        self._notices = 0
        self._drawn: Any = None
        self._rates: dict[str, deque[tuple[float, int]]] = {}
        self._open = True
        self._live.start()

    def update(self, progress: Progress, now: float) -> None:
        for notice in progress.notices[self._notices :]:
            self.say(f"  {clean(notice)}")
        self._notices = len(progress.notices)
        drawn = (progress.tasks, progress.state, int(now - self._started))
        if drawn != self._drawn:  # nothing has changed but fractions of a second: leave the terminal alone
            self._drawn = drawn
            self._live.update(self._picture(progress, now), refresh=True)

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._live.stop()

    def _picture(self, progress: Progress, now: float) -> Group:
        sign, color = MARKS.get(str(progress.state), ("?", ""))
        head = Text.assemble(
            (f"{sign} ", color),
            (clean(progress.workflow), "bold"),
            f"  {self._run_id}  {progress.state}  ",
            (duration(max(0.0, now - self._started)), "dim"),
        )
        table = Table.grid(padding=(0, 2))
        for column, least in COLUMNS.items():
            justify: Literal["left", "right"] = "left" if column in ("task", "bar") else "right"
            table.add_column(column, justify=justify, no_wrap=True, min_width=least)
        room = max(3, self._console.height - 4)
        shown, hidden = _most_telling(progress.tasks, room)
        for task in shown:
            table.add_row(*self._row(task, now))
        lines: list[Any] = [head, table]
        if hidden:
            done = sum(task.done for task in hidden)
            total = sum(task.total for task in hidden)
            lines.append(Text(f"  and {len(hidden)} more tasks: {done:,} of {total:,} steps done", "dim"))
        return Group(*lines)

    def _row(self, task: TaskProgress, now: float) -> list[Text]:
        rates = self._rates.setdefault(task.task, deque())
        rates.append((now, task.done))
        while now - rates[0][0] > RATE_WINDOW:
            rates.popleft()
        ended = task.done + task.failed + task.skipped
        seconds = now - rates[0][0]
        rate = (task.done - rates[0][1]) / seconds if seconds > 0.5 else 0.0
        left = task.total - ended
        sign, color = MARKS[_state(task, left)]
        return [
            Text.assemble((f"{sign} ", color), clean(task.task, 40)),
            _bar(task),
            Text(f"{task.done:,}/{task.total:,}"),
            Text(f"{task.running:,} running" if task.running else "", "cyan"),
            _trouble(task),
            Text(f"{rate:,.0f}/s" if rate >= 5 else f"{rate:.1f}/s" if rate >= 0.05 and left else "", "dim"),
            Text(_left(task, left, rate), "dim"),
        ]


def _state(task: TaskProgress, left: int) -> str:
    if task.failed:
        return "failed"
    if left:
        return "running" if task.running else "waiting"
    return "succeeded" if task.done or not task.total else "skipped"


def _left(task: TaskProgress, left: int, rate: float) -> str:
    if not left or not (task.running or rate):
        return ""
    if rate >= 5:
        return f"{duration(left / rate)} left"
    if task.mean_seconds is None:
        return ""
    return f"{duration(left * task.mean_seconds / max(1, task.running))} left"


def _trouble(task: TaskProgress) -> Text:
    parts = Text()
    if task.failed:
        parts.append(f"{task.failed:,} failed ", "red")
    if task.retrying:
        parts.append(f"{task.retrying:,} retrying ", "yellow")
    if task.skipped:
        parts.append(f"{task.skipped:,} skipped", "yellow")
    return parts


def _bar(task: TaskProgress) -> Text:
    """Done in green, failed in red, running in cyan; at least one character for what there is at all."""
    total = max(1, task.total)
    bar = Text()
    used = 0
    for count, color in ((task.done, "green"), (task.failed, "red"), (task.skipped, "yellow"), (task.running, "cyan")):
        cells = min(BAR - used, max(1, BAR * count // total)) if count else 0
        bar.append("━" * cells, color)
        used += cells
    bar.append("━" * (BAR - used), "bright_black")
    return bar


def _most_telling(tasks: tuple[TaskProgress, ...], room: int) -> tuple[list[TaskProgress], list[TaskProgress]]:
    """Those that fit, in their order: first what runs or failed, then what waits, then what is done."""
    if len(tasks) <= room:
        return list(tasks), []
    ranked = sorted(
        range(len(tasks)),
        key=lambda index: (
            not (tasks[index].running or tasks[index].failed or tasks[index].retrying),
            tasks[index].done == tasks[index].total,
            index,
        ),
    )
    kept = set(ranked[: room - 1])
    shown = [task for index, task in enumerate(tasks) if index in kept]
    return shown, [task for index, task in enumerate(tasks) if index not in kept]
