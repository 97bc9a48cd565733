"""The value format: what goes in comes out, without copies where there are buffers, and damage is named."""

from __future__ import annotations

import dataclasses
import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dagengine.errors import ArtifactDamaged, Unpicklable
from dagengine.values import ALIGNMENT, Placeholder, decode, encode

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


class Stand(Placeholder):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def there_and_back(value: Any) -> Any:
    encoded = encode(value)
    return decode(encoded.to_bytes(), digest=encoded.digest())


@pytest.mark.parametrize(
    "value", [None, 1, 2**80, 1.5, "ü", b"x", True, [1, {"a": (2, {3})}], Point(1, 2), Pair(1, [2])]
)
def test_plain_values_come_back_equal(value: Any) -> None:
    """Scalars, containers, named tuples, dataclasses."""
    assert there_and_back(value) == value


def test_arrays_are_views_on_the_bytes_and_read_only() -> None:
    """No copy is made, and a reader can't change what others read."""
    array = np.arange(1000)
    data = encode(array).to_bytes()
    found = decode(data)
    assert np.array_equal(found, array)
    assert not found.flags.writeable
    assert np.shares_memory(found, np.frombuffer(data, dtype=np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_buffers_are_aligned() -> None:
    """Each buffer begins at a multiple of 64 bytes, whatever was before it."""
    data = bytearray(encode([np.ones(3, dtype=np.uint8), np.arange(5), np.arange(7)]).to_bytes())
    base = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]
    for part in decode(data):
        assert (part.__array_interface__["data"][0] - base) % ALIGNMENT == 0


def test_data_frames_come_back_equal() -> None:
    """pandas rides on NumPy's buffers."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


def test_a_slice_of_an_arrow_table_does_not_carry_the_table() -> None:
    """Arrow data travels as IPC, which writes the slice only."""
    table = pa.table({"x": np.arange(1_000_000)})
    encoded = encode(table.slice(10, 3))
    assert encoded.size < 2_000
    assert there_and_back(table.slice(10, 3)).to_pydict() == {"x": [10, 11, 12]}
    batch = table.slice(0, 5).to_batches()[0]
    assert there_and_back(batch).equals(batch)


def test_functions_without_a_name_travel_by_value() -> None:
    """Lambdas and closures, as arguments or inside of results."""
    three = 3
    assert there_and_back({"f": lambda x: x + three})["f"](1) == 4


def test_placeholders_take_their_inputs_in_order() -> None:
    """In lists, dicts, tuples, sets, dataclasses, named tuples; a placeholder that occurs twice is one."""
    a, b = Stand("a"), Stand("b")
    encoded = encode(([a, {"k": b}], {a}, Pair(a, (b,)), Point(b, 1)))
    assert [found.name for found in encoded.placeholders] == ["a", "b"]  # type: ignore[attr-defined]
    assert decode(encoded.to_bytes(), ["A", "B"]) == (["A", {"k": "B"}], {"A"}, Pair("A", ("B",)), Point("B", 1))


def test_placeholders_outside_of_a_call_are_refused() -> None:
    """Pickling one by oneself would lose what it stands for."""
    import pickle

    with pytest.raises(TypeError, match="outside of a call"):
        pickle.dumps(Stand("a"))


def test_the_error_leads_to_the_part_that_cannot_be_pickled() -> None:
    """Through dicts, tuples, attributes."""
    with pytest.raises(Unpicklable) as caught:
        encode({"a": [1, Pair(2, threading.Lock())]}, "the result of f", "result")
    assert caught.value.path.startswith("result['a'][1].right")
    assert str(caught.value).startswith("the result of f can't be pickled: result['a'][1].right")
    assert "\n" not in str(caught.value)


def test_a_value_too_deep_to_pickle_is_an_error_and_not_a_crash() -> None:
    """A list nested 100,000 deep."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Unpicklable):
        encode(deep)
    while deep:  # taken apart by hand: freeing it at once is as deep as pickling it
        deep = deep[0]


def test_an_encoder_that_failed_leaves_nothing_behind() -> None:
    """The next value is encoded as if nothing had been."""
    with pytest.raises(Unpicklable):
        encode([Stand("lost"), threading.Lock()])
    encoded = encode([Stand("kept")])
    assert [found.name for found in encoded.placeholders] == ["kept"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    ],
    ids=["torn", "another format", "header torn", "empty", "a bit flipped"],
)
def test_damaged_bytes_are_named_before_they_are_unpickled(spoil: Any) -> None:
    """The digest is checked first."""
    encoded = encode(np.arange(100))
    with pytest.raises(ArtifactDamaged):
        decode(spoil(encoded.to_bytes()), digest=encoded.digest())


def test_torn_bytes_are_named_also_without_a_digest() -> None:
    """Lengths are checked against what is there."""
    with pytest.raises(ArtifactDamaged):
        decode(encode(np.arange(100)).to_bytes()[:-8])
