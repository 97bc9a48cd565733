"""A call's arguments encoded, and held against the recorded ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest

from dagengine.body import Body
from dagengine.calls import encode_call, same_call, show_call
from dagengine.errors import BadArguments
from dagengine.model import INLINE_LIMIT, Input, PayloadInput, StepInput
from dagengine.refs import Ref
from dagengine.values import Encoded, decode


def ref(seq: int) -> Any:
    return Ref(cast("Body", None), seq, f"w/f[{seq}]")


def encoded(*args: Any, kept: list[Encoded] | None = None, **kwargs: Any) -> tuple[bytes, tuple[Input, ...]]:
    return encode_call(args, kwargs, "the call", (kept if kept is not None else []).append, None)


def never(payload: PayloadInput) -> Any:
    raise AssertionError("nothing large was passed")


def test_refs_become_inputs() -> None:
    """Each ref once, in the order of their first use."""
    four = ref(4)
    call, inputs = encoded(four, [ref(2), four], x={"y": ref(7)})
    assert inputs == (StepInput(4), StepInput(2), StepInput(7))
    assert decode(call, ["a", "b", "c"]) == (("a", ["b", "a"]), {"x": {"y": "c"}})


def test_large_arguments_become_artifacts() -> None:
    """Each by itself, under its digest; what is left is small."""
    kept: list[Encoded] = []
    array = np.arange(INLINE_LIMIT)
    call, inputs = encoded(1, array, ref(3), kept=kept, other=array)
    assert len(call) < 1_000
    assert [type(item) for item in inputs] == [PayloadInput, StepInput, PayloadInput]
    assert inputs[0] == inputs[2] == PayloadInput(kept[0].digest(), kept[0].size)


def test_many_refs_stay_in_the_call() -> None:
    """A list of 10,000 refs is large, and no data."""
    _, inputs = encoded([ref(seq) for seq in range(10_000)])
    assert len(inputs) == 10_000


def test_refs_mixed_with_much_data_are_refused_with_a_way_out() -> None:
    """The data should be an argument of its own."""
    with pytest.raises(BadArguments, match="argument of its own"):
        encoded([ref(1), np.zeros(5_000_000)])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((1, "a"), (1, "a"), True),
        ((1,), (2,), False),
        ((1,), (1.0,), False),
        (({"b", "a"},), ({"a", "b"},), True),
        ((["x" * 3, "xxx"],), ([*["".join(["x"] * 3)] * 2],), True),
        ((np.arange(3),), (np.arange(3),), True),
        ((np.arange(3),), (np.arange(3.0),), False),
        ((ref(1),), (ref(1),), True),
        ((ref(1),), (ref(2),), False),
        (({"a": 1},), ({"a": 1, "b": 2},), False),
    ],
)
def test_calls_are_the_same_if_their_arguments_are(one: tuple[Any, ...], other: tuple[Any, ...], same: bool) -> None:
    """Whatever the identity of strings and the order of sets."""
    assert same_call(encoded(*one), encoded(*other), never) is same


def test_a_set_is_the_same_in_a_process_with_another_hash_seed() -> None:
    """Sets of strings are pickled in another order there."""
    code = (
        "from dagengine.calls import encode_call; import sys;"
        "sys.stdout.write(encode_call(({str(i) for i in range(50)},), {}, 'x', print)[0].hex())"
    )
    calls = [
        bytes.fromhex(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout.decode()
        )
        for seed in ("1", "2")
    ]
    assert calls[0] != calls[1]
    assert same_call((calls[0], ()), (calls[1], ()), never)


def test_a_call_is_shown_as_it_would_be_written() -> None:
    """For the difference that a mismatch shows."""
    assert show_call("f", encoded(1, [ref(3)], x="a")) == "f(1, [<ref to step 3>], x='a')"
