"""What reaches a terminal: nothing that could do more than be read."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagengine.cli.terminal import (
    ago,
    clean,
    clean_block,
    colored,
    duration,
    is_terminal,
    mark,
    paint,
    size,
    table,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;aGk=\x07x", "x"),
        ("\x9b31mx", "x"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1b", "a"),
        ("a\x00\x07\x08b", "ab"),
        ("safe\u202eexe.txt", "safeexe.txt"),
        ("a\u2066b\u2069\u200ec", "abc"),
        ("a\rb", "a\nb"),
        ("a\r\nb", "a\nb"),
        ("tab\tstays", "tab\tstays"),
        ("Grüße, 世界 🎉", "Grüße, 世界 🎉"),
        ("\ud800x", "x"),
    ],
)
def test_control_and_escape_sequences_are_taken_out(text: str, shown: str) -> None:
    """Colours, titles, links, the clipboard, and turned reading order."""
    assert clean_block(text) == shown


@given(st.text(alphabet=st.characters(), max_size=60))
def test_no_text_leaves_a_control_character(text: str) -> None:
    """Of any text, only lines and tabs stay."""
    assert not [c for c in clean_block(text) if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert "\n" not in clean(text)


def test_a_clean_line_is_short_and_single() -> None:
    """Longer text is cut, and the cut is seen."""
    assert clean("a\n b\t c") == "a b c"
    assert clean("x" * 300, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool
) -> None:
    """NO_COLOR and TERM=dumb are heeded; FORCE_COLOR, too."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colored(Terminal()) is wanted
    assert ("\x1b[" in paint("x", "red", Terminal())) is wanted


def test_a_pipe_and_a_closed_stream_are_no_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get plain lines."""
    monkeypatch.setenv("TERM", "xterm")
    assert not is_terminal(io.StringIO())
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(closed)
    assert mark("succeeded", io.StringIO()) == "✓"


def test_a_table_is_aligned_whatever_its_colours() -> None:
    """Escape sequences take no room."""
    text = table(("name", "n"), [("a", "1"), ("\x1b[31mlong\x1b[0m", "10")], right=(1,))
    assert text.splitlines() == ["name   n", "a      1", "\x1b[31mlong\x1b[0m  10"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (184, "3 min 04 s"),
        (7500, "2 h 05 min"),
        (3 * 86400 + 7300, "3 d 2 h"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    """As long as they have to be."""
    assert duration(seconds) == text


def test_ages_and_sizes_are_short() -> None:
    """In the largest unit that says something."""
    assert [ago(1000 - s, 1000) for s in (0, 59, 61, 7300, 200000)] == [
        "0 s ago",
        "59 s ago",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert [size(n) for n in (None, 5, 2048, 3 << 20, 5 << 30, 5 << 40)] == [
        "–",
        "5 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "5120.0 GiB",
    ]
