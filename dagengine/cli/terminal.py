"""Text for people: cleaned, coloured where that is wanted, in columns.

Names, messages and output come from the store, and were written by anybody's code. Nothing of them reaches a terminal before
`clean` or `clean_block` has taken out what could move the cursor, set the title or clipboard, or turn the order of reading.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from dagengine.model import RunState, StepState

_ESCAPES = re.compile(
    "(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\\\|\x9c)?"  # OSC, DCS … up to their end
    "|(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,16}[@-~]?"  # CSI: colours, cursor
    "|\x1b[ -/]{0,4}[0-~]?"  # what else begins with ESC
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

MARKS: dict[str, tuple[str, str]] = {
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "unknown": ("?", "red"),
    "crashed": ("✗", "red"),
    "mismatch": ("≠", "red"),
    "running": ("●", "cyan"),
    "retrying": ("↻", "yellow"),
    "ready": ("▸", "cyan"),
    "waiting": ("○", ""),
    "pending": ("○", ""),
    "skipped": ("↷", "yellow"),
    "cancelled": ("⊘", "yellow"),
    "interrupted": ("‖", "yellow"),
    "paused": ("‖", "yellow"),
}
"""State of a run or step -> its mark and colour."""

_COLORS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "bold": 1, "dim": 2}


def clean_block(text: str) -> str:
    """The text without control and escape sequences; lines and tabs stay. A lone carriage return begins a line."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text)


def clean(text: object, limit: int = 200) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(clean_block(str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def colored(stream: IO[str] | None = None) -> bool:
    """Whether colours are wanted on the stream: on a terminal that has some, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream or sys.stdout)


def is_terminal(stream: IO[str]) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
    except ValueError:  # closed
        return False


def paint(text: str, color: str, stream: IO[str] | None = None) -> str:
    code = _COLORS.get(color)
    return f"\x1b[{code}m{text}\x1b[0m" if code and colored(stream) else text


def mark(state: str | RunState | StepState, stream: IO[str] | None = None) -> str:
    sign, color = MARKS.get(str(state), ("?", ""))
    return paint(sign, color, stream)


def state_text(state: str | RunState | StepState) -> str:
    return paint(str(state), MARKS.get(str(state), ("", ""))[1])


def width() -> int:
    return max(40, shutil.get_terminal_size((100, 24)).columns)


_ANSI = re.compile("\x1b\\[[0-9;]*m")


def _length(cell: str) -> int:
    return len(_ANSI.sub("", cell))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns, two spaces apart. `right`: the numbers of those that are aligned to the right."""
    head = [paint(cell, "dim") for cell in header]
    body = [list(row) for row in rows]
    widths = [max(map(_length, column)) for column in zip(head, *body, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = []
        for index, cell in enumerate(row):
            space = " " * (widths[index] - _length(cell))
            cells.append(space + cell if index in right else cell + space)
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in [head, *body])


def duration(seconds: float | None) -> str:
    """ "0.12 s", "4.2 s", "3 min 04 s", "2 h 05 min", "3 d 4 h"."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(then: float | None, now: float | None = None) -> str:
    if then is None:
        return "–"
    seconds = max(0.0, (time.time() if now is None else now) - then)
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h"), (float("inf"), 86400, "d")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return "–"


def clock(then: float | None) -> str:
    return "–" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


def size(count: int | None) -> str:
    if count is None:
        return "–"
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{int(number)} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return "–"


def number(count: int) -> str:
    return f"{count:,}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=True, default=str))


def print_json_list(head: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """The object `head` with, as its last field `name`, a list that is written item by item, however long it is."""
    import json

    print(f"{json.dumps(head, ensure_ascii=True, default=str)[:-1]}, {json.dumps(name)}: [", end="")
    separator = ""
    for item in items:
        print(separator, json.dumps(item, ensure_ascii=True, default=str), sep="\n", end="")
        separator = ","
    print("]}")


def note(text: str) -> None:
    """A line for people, beside the output: on stderr."""
    print(text, file=sys.stderr)
