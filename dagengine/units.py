"""Sizes, durations and ids as people say them: `memory=2 * GiB`, `"90s"`, `7f3a9c02`. Imports nothing of ours."""

from __future__ import annotations

import math
import re
from datetime import timedelta

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_size(text: str) -> int:
    """Bytes, of `512MiB`, `24 GiB`, `2GB`, `1.5g` or a plain number. Raises ValueError.

    KiB, MiB, GiB, TiB are powers of 1,024; kB, MB, GB, TB of 1,000, as IEC 80000-13 has it.
    """
    word = text.strip().lower().replace("_", "").replace(",", "")
    number = word.rstrip("bikmgt ")
    unit = word[len(number) :].strip()
    factor = _UNITS.get(unit if unit == "b" else unit.removesuffix("b"))
    if factor is None or not number.isascii():
        raise ValueError(f"{text!r} is not a size")
    size = float(number) * factor
    if not 0 <= size < 2**60:
        raise ValueError(f"{text!r} is not a size")
    return int(number) * factor if number.isdigit() else int(size)


def show_size(size: int) -> str:
    """`1.5 GiB`, for people."""
    for unit, factor in (("GiB", GiB), ("MiB", MiB), ("KiB", 1024)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|sec|s|min|m|h|d|w)\s*", re.ASCII)
LONGEST = 100 * 366 * 86_400.0
"""Seconds of a duration: a hundred years. What is longer was mistyped."""


def parse_duration(given: str | float | timedelta) -> float:
    """Seconds, of `"90s"`, `"1h30m"`, `"2d"`, `"1.5 h"`, a number of seconds, or a timedelta. Raises ValueError."""
    if isinstance(given, timedelta):
        seconds = given.total_seconds()
    elif isinstance(given, str):
        text = given.strip().lower()
        parts = _PART.findall(text)
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            seconds = float(text)
        elif parts and _PART.sub("", text) == "":
            seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
        else:
            raise ValueError(f"{given!r} is not a duration")
    else:
        seconds = float(given)
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{given!r} is not a duration")
    return seconds


def parse_period(given: str | float | timedelta) -> float:
    """How long something is kept: a duration, or infinity for `"never"`, which is when it goes. Raises ValueError."""
    return math.inf if isinstance(given, str) and given.strip().lower() == "never" else parse_duration(given)


def short_id(run_id: str) -> str:
    """What people are shown of a run's id: enough of it to be unique, and to be typed."""
    shown = run_id[:8] if len(run_id) == 32 and run_id.isalnum() else run_id
    return "".join(c for c in shown if c.isprintable())  # ids are checked when runs begin; but anybody may have written
