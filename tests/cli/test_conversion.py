"""What a word of the command line means to a parameter of a type."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagengine.cli.conversion import Mismatch, convert, parse, type_name


class Color(enum.Enum):
    RED = "r"
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Config:
    name: str
    points: list[Point] = dataclasses.field(default_factory=list)
    color: Color | None = None


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Options(TypedDict, total=False):
    depth: int


Meters = NewType("Meters", float)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("-1_000", int, -1000),
        ("2.5", float, 2.5),
        ("1e3", float, 1000.0),
        ("inf", float, math.inf),
        ("3", str, "3"),
        ("", str, ""),
        ("a=b", str, "a=b"),
        ("true", bool, True),
        ("NO", bool, False),
        ("0", bool, False),
        ("data/x", Path, Path("data/x")),
        ("none", int | None, None),
        ("3", int | None, 3),
        ("3", int | str, 3),
        ("three", int | str, "three"),
        ("null", str | None, None),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("RED", Color, Color.RED),
        ("2", Color, Color.BLUE),
        ("[1, 2]", list[int], [1, 2]),
        ("1,2", list[int], [1, 2]),
        ("", list[int], []),
        ("a, b", list[str], ["a", "b"]),
        ("1,a", tuple[int, str], (1, "a")),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("[1, 1]", set[int], {1}),
        ("1,2", frozenset[int], frozenset({1, 2})),
        ("1,2", Sequence[float], [1.0, 2.0]),
        ('{"1": 2.0}', dict[int, float], {1: 2.0}),
        ('{"a": [1]}', Mapping[str, list[int]], {"a": [1]}),
        ('{"x": 1}', Point, Point(1.0)),
        ('{"name": "n", "points": [{"x": 1, "y": 2}], "color": "r"}', Config, Config("n", [Point(1, 2)], Color.RED)),
        ('{"left": 1}', Pair, Pair(1)),
        ('[1, "x"]', Pair, Pair(1, "x")),
        ('{"depth": 3}', Options, {"depth": 3}),
        ("2024-02-29", datetime.date, datetime.date(2024, 2, 29)),
        ("2024-02-29T12:00", datetime.datetime, datetime.datetime(2024, 2, 29, 12)),  # noqa: DTZ001 — as it was typed
        ("0.10", decimal.Decimal, decimal.Decimal("0.10")),
        ("12345678123456781234567812345678", uuid.UUID, uuid.UUID(int=0x12345678123456781234567812345678)),
        ("abc", bytes, b"abc"),
        ("1.5", Meters, 1.5),
        ("3", Annotated[int, "months"], 3),
        ("3", Any, 3),
        ("three", Any, "three"),
        ('{"a": 1}', object, {"a": 1}),
        ("3", "not.known", 3),
    ],
)
def test_a_word_becomes_what_its_parameter_says(text: str, annotation: Any, value: Any) -> None:
    """By the annotation alone, with the type that it names."""
    found = parse(text, annotation)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "path"),
    [
        ("x", int, ""),
        ("1.5", int, ""),
        ("", int, ""),
        ("9" * 5000, int, ""),
        ("1e999", float, ""),
        ("maybe", bool, ""),
        ("c", Literal["a", "b"], ""),
        ("GREEN", Color, ""),
        ("[1", list[int], ""),
        ("[1, true]", list[int], "[1]"),
        ("1,x", list[int], "[1]"),
        ('{"a": 1}', list[int], ""),
        ("1,2,3", tuple[int, str], ""),
        ("3", dict[str, int], ""),
        ('{"a": "b"}', dict[str, int], "['a']"),
        ('{"x": "a"}', Point, ".x"),
        ('{"z": 1}', Point, ""),
        ("{}", Point, ""),
        ('{"name": "n", "points": [{"x": "a"}]}', Config, ".points[0].x"),
        ('{"name": "n", "color": "green"}', Config, ".color"),
        ("[1, 2, 3]", Pair, ""),
        ("someday", datetime.date, ""),
        ("x", decimal.Decimal, ""),
        ("x", int | float, ""),
        ("[[1], [2, []]]", list[list[int]], "[1][1]"),
        ('{"x": 1}', Sequence, ""),
        ("1", type(pytest), ""),
        ("[" * 500_000 + "]" * 500_000, list[Any], ""),
        ("[[1, 2]]", set[list[int]], ""),
    ],
)
def test_what_does_not_fit_is_refused_with_the_path_to_it(text: str, annotation: Any, path: str) -> None:
    """One line, and where in the value it is."""
    with pytest.raises(Mismatch) as caught:
        parse(text, annotation)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=50), st.sampled_from([int, float, bool, list[int], dict[str, int], Color, Config, int | None]))
def test_no_text_does_more_than_fit_or_not(text: str, annotation: Any) -> None:
    """Whatever is typed, it is a value or a Mismatch."""
    with contextlib.suppress(Mismatch):
        parse(text, annotation)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_without_an_annotation_json_stays_what_it_is(value: Any) -> None:
    """Nothing is guessed at."""
    assert convert(value, Any) == value


def test_a_model_of_pydantics_checks_what_it_is_given() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Settings", rate=(float, ...), names=(list[str], []))
    assert parse('{"rate": 1, "names": ["a"]}', model) == model(rate=1.0, names=["a"])
    with pytest.raises(Mismatch, match="valid string") as wrong:
        parse('{"rate": 1, "names": ["a", 2]}', model)
    assert wrong.value.path == ".names[1]"


def test_a_boolean_is_no_number() -> None:
    """JSON's true does not pass for 1."""
    for annotation in (int, float, int | str):
        with pytest.raises(Mismatch):
            convert(True, annotation)


def test_types_are_named_as_people_say_them() -> None:
    """In messages that ask for one."""
    assert type_name(int | None) == "int or none"
    assert type_name(list[int]) == "list[int]"
    assert type_name(Literal["a", "b"]) == "one of a, b"
    assert type_name(Color) == "one of RED, BLUE"
    assert type_name(tuple[int, ...]) == "tuple[int, …]"
