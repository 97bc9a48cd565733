"""key=value words against a workflow's signature."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dagengine.cli.arguments import bind
from dagengine.errors import BadArguments

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]  # a name for type checkers only


def nightly(year: int, lr: float = 0.1, tags: list[str] | None = None) -> None: ...


def positional(year: int, /, month: int = 1, *, dry: bool = False) -> None: ...


def anything(**settings: int) -> None: ...


def nothing() -> None: ...


def partly(known: int, strange: Unknown = None) -> None: ...


def bound(function: Any, *words: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return bind(function.__name__, inspect.signature(function), function, words)


def test_words_become_typed_arguments() -> None:
    """In any order; what has a default may be left out."""
    assert bound(nightly, "lr=1", "year=2013") == ((), {"year": 2013, "lr": 1.0})
    assert bound(nightly, "year=2013", "tags=a,b")[1]["tags"] == ["a", "b"]


def test_positional_only_parameters_are_given_by_name_too() -> None:
    """The command line knows names only."""
    assert bound(positional, "year=1", "dry=true") == ((1,), {"dry": True})


def test_free_keywords_have_their_own_type() -> None:
    """Of a workflow that takes any."""
    assert bound(anything, "a=1", "b=2") == ((), {"a": 1, "b": 2})


def test_an_annotation_that_can_not_be_known_takes_anything() -> None:
    """The others are still used."""
    assert bound(partly, "known=1", "strange=x")[1] == {"known": 1, "strange": "x"}
    with pytest.raises(BadArguments, match="known: 'x'"):
        bound(partly, "known=x")


def test_values_come_from_files(tmp_path: Path) -> None:
    """@file.json is JSON, any other file the text that one would type; @@ is an @."""
    (tmp_path / "tags.json").write_text('["a", "b"]')
    (tmp_path / "year.txt").write_text("2013\n")
    words = (f"tags=@{tmp_path}/tags.json", f"year=@{tmp_path}/year.txt")
    assert bound(nightly, *words)[1] == {"year": 2013, "tags": ["a", "b"]}
    assert bound(nightly, "year=1", "tags=@@x")[1]["tags"] == ["@x"]


def test_a_whole_object_comes_from_a_file_and_words_win_over_it(tmp_path: Path) -> None:
    """Wherever the file stands."""
    (tmp_path / "all.json").write_text(json.dumps({"year": 2013, "lr": 0.5}))
    expected = ((), {"year": 2013, "lr": 2.0})
    assert bound(nightly, f"@{tmp_path}/all.json", "lr=2") == expected
    assert bound(nightly, "lr=2", f"@{tmp_path}/all.json") == expected


@pytest.mark.parametrize(
    ("function", "words", "said"),
    [
        (nightly, [], "nightly misses year (int). Say year=…."),
        (nightly, ["yeer=1"], "has no parameter 'yeer'. Did you mean year?"),
        (nightly, ["xyzzy=1"], "Its parameters: year: int, lr: float = 0.1"),
        (nightly, ["year=x"], "year: 'x' is not a whole number. Give an int."),
        (nightly, ["year=1", "year=2"], "year is given twice"),
        (nightly, ["2013"], "'2013' is not key=value"),
        (nightly, ["=3"], "'=3' is not key=value"),
        (nightly, ["year="], "year: '' is not a whole number"),
        (nightly, ["year=@"], "names no file"),
        (nightly, ["year=@/no/such.json"], "/no/such.json can't be read (year): No such file"),
        (nightly, ["@/no/such.json"], "/no/such.json can't be read"),
        (nightly, ["year=@/"], "Is a directory"),
        (nightly, ["year=1", "lr=1,5"], "lr: '1,5' is not a number"),
        (nightly, ["year=1", "tags=[1]"], "tags[0]: 1 is not a str"),
        (positional, ["month=2"], "positional misses year (int)"),
        (nothing, ["x=1"], "It takes none."),
        (nothing, ["x"], "takes no arguments"),
        (anything, ["a=x"], "a: 'x' is not a whole number"),
        (anything, ["a-b=1"], "has no parameter 'a-b'"),
    ],
)
def test_words_that_do_not_fit_are_named(function: Any, words: list[str], said: str) -> None:
    """One line: which word, and what to say instead."""
    with pytest.raises(BadArguments) as caught:
        bound(function, *words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "holds a list. Give an object"),
        (b'{"year": 1', "is not JSON"),
        (b'{"yeer": 1}', "Did you mean year?"),
        (b'{"year": "x"}', "year in"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    """With what is wrong in it."""
    file = tmp_path / "all.json"
    file.write_bytes(content)
    with pytest.raises(BadArguments) as caught:
        bound(nightly, f"@{file}")
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    """Data is passed by its path."""
    file = tmp_path / "big.json"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 30)
    with pytest.raises(BadArguments, match="more than 64 MiB"):
        bound(nightly, f"tags=@{file}")
