"""Sizes as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dagengine.units import GiB, MiB, parse_duration, parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MiB),
        ("512MiB", 512 * MiB),
        ("24 GiB", 24 * GiB),
        ("1.5g", 1_500_000_000),
        ("2GB", 2_000_000_000),
        ("1_000", 1000),
        ("3Ti", 3 * 1024 * GiB),
        ("7 b", 7),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_read_as_it_is_written(text: str, size: int) -> None:
    """With binary and decimal units, spaces and fractions; whole numbers stay exact."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1XB", "1e400", "nan", "inf", "5 GiB more", "٣", "1..2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"size|float|convert"):
        parse_size(text)


def test_sizes_are_shown_in_the_unit_that_fits() -> None:
    """One decimal, and bytes below a KiB."""
    assert [show_size(size) for size in (5, 2048, 3 * MiB, 3 * GiB // 2)] == [
        "5 bytes",
        "2.0 KiB",
        "3.0 MiB",
        "1.5 GiB",
    ]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("2d", 172_800),
        ("250ms", 0.25),
        ("1W", 604_800),
        ("7", 7),
        (3, 3),
    ],
)
def test_durations_are_read_as_people_write_them(said: str | float, seconds: float) -> None:
    """Parts add up; a number by itself is seconds."""
    assert parse_duration(said) == seconds
    assert parse_duration(timedelta(seconds=seconds)) == seconds


@pytest.mark.parametrize("said", ["", "soon", "-1s", "5 parsecs", "1h x", -1, float("nan"), float("inf"), "9999999w"])
def test_what_is_no_duration_is_refused(said: str | float) -> None:
    """Also negative ones, and those of more than a hundred years."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(said)
