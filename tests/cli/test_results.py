"""Values for people and programs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dagengine.cli.results import NoJson, as_json, shown


class Color(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    left: int
    right: Any


@dataclasses.dataclass
class Report:
    path: Path
    top: tuple[str, ...]
    color: Color = Color.RED


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2.5, 2.5),
        ("x", "x"),
        ([1, (2, 3)], [1, [2, 3]]),
        ({"a": {1: 2}}, {"a": {"1": 2}}),
        ({3, 1, 2}, [1, 2, 3]),
        (Color.RED, "r"),
        (Level.LOW, 1),
        (Pair(1, Pair(2, None)), {"left": 1, "right": {"left": 2, "right": None}}),
        (Report(Path("out"), ("a",)), {"path": "out", "top": ["a"], "color": "r"}),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (decimal.Decimal("0.10"), "0.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.bool_(True), True),
    ],
)
def test_values_have_the_json_form_that_people_expect(value: Any, found: Any) -> None:
    """Containers, dataclasses, enums, dates, paths, numbers of NumPy."""
    assert json.loads(json.dumps(as_json(value))) == found


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (b"bytes", "it is of type bytes"),
        (math.nan, "it is of type float"),
        ([1, {"a": object()}], "[1]['a'] is of type object"),
        ({(1, 2): 3}, " key (1, 2) is of type tuple"),
        (Report(Path("x"), (b"",)), ".top[0] is of type bytes"),  # type: ignore[arg-type]  # what it holds is the point
        (np.array([np.inf]), "[0] is of type float"),
    ],
)
def test_what_has_no_json_form_is_named_with_the_path_to_it(value: Any, path: str) -> None:
    """So that it can be found in a large result."""
    with pytest.raises(NoJson) as caught:
        as_json(value)
    assert path in str(caught.value)


def test_a_value_in_itself_has_no_json_form() -> None:
    """And does not exhaust the stack."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NoJson):
        as_json(loop)


def test_values_as_text_are_clean_and_bounded() -> None:
    """A repr that raises is told; escape sequences of a text do nothing."""
    assert shown("\x1b[31mred\x1b[0m\nline") == "red\nline"
    assert shown("x" * 10, limit=4) == "xxxx… (10 characters)"
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(Opaque()) == "<Opaque; its repr raised RuntimeError>"
