"""Refs say what to do when they are used as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from dagengine.body import Body
from dagengine.errors import RefMisuse
from dagengine.refs import Ref


def ref(seq: int = 1) -> Any:
    return Ref(cast("Body", None), seq, f"nightly/f[{seq}]")


@pytest.mark.parametrize(
    "misuse",
    [
        bool,
        len,
        iter,
        int,
        float,
        lambda r: r + 1,
        lambda r: 1 + r,
        lambda r: -r,
        lambda r: r == 1,
        lambda r: r != 1,
        lambda r: r < 1,
        lambda r: r[0],
        lambda r: r.attribute,
        lambda r: r(),
        lambda r: 1 in r,
        lambda r: f"{r}",
        lambda r: [*r],
        lambda r: [0, 1][r],
        lambda r: r @ r,
        round,
    ],
)
def test_each_use_as_a_value_says_to_get_it(misuse: Callable[[Any], Any]) -> None:
    """The message names the step and the way out."""
    with pytest.raises(RefMisuse, match=r"nightly/f\[1\] has no value yet, so you can't .* Wait for it with get"):
        misuse(ref())


def test_refs_can_be_looked_at_kept_and_told_apart() -> None:
    """repr, hash, equality among refs, hasattr."""
    assert repr(ref(2)) == "<ref nightly/f[2]>"
    assert ref(1) == ref(1)
    assert ref(1) != ref(2)
    assert len({ref(1), ref(1), ref(2)}) == 2
    assert not hasattr(ref(), "anything")
