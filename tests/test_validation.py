"""What was said, held against what can be said."""

from __future__ import annotations

from typing import Any

import pytest

from dagengine.errors import BadOption
from dagengine.validation import check_flag, check_integer, check_known, check_number, did_you_mean, nearest


def test_hints_name_the_nearest_or_all() -> None:
    """A typo gets the one that was meant; anything else, what there is, or what the caller says instead."""
    assert did_you_mean("stor", ("store", "workers")) == " Did you mean store?"
    assert did_you_mean("xyzzy", ("store", "workers")) == " There is: store, workers."
    assert did_you_mean("xyzzy", ("store", "workers"), many=1) == " There is: store, …."
    assert did_you_mean("xyzzy", ("store",), "Look it up.") == " Look it up."
    assert did_you_mean("xyzzy", ()) == ""


def test_how_like_a_word_has_to_be_can_be_said() -> None:
    """Long words are meant with fewer of their letters."""
    assert nearest("part", ["flow/part[0]"]) is None
    assert nearest("part", ["flow/part[0]"], 0.5) == "flow/part[0]"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 11])
def test_a_whole_number_is_one_within_its_limits(value: Any) -> None:
    """No bool, no float, no text."""
    check_integer("n", 1, 1, 10)
    check_integer("n", 10, 1, 10)
    with pytest.raises(BadOption, match=r"^n=.* has to be a whole number of at least 1 and at most 10\.$"):
        check_integer("n", value, 1, 10)


@pytest.mark.parametrize(
    "value", [True, "1", None, -0.5, 1.5, float("nan"), float("inf"), pytest.param(10**400, id="too great for a float")]
)
def test_a_number_is_finite_and_within_its_limits(value: Any) -> None:
    """No bool, no text."""
    check_number("x", 0, 0, 1)
    check_number("x", 1.0, 0, 1)
    with pytest.raises(BadOption, match=r"^x=.* has to be a number of at least 0 and at most 1\.$"):
        check_number("x", value, 0, 1)


def test_a_number_above_a_limit_is_not_the_limit() -> None:
    """A timeout of 0 would be none at all."""
    with pytest.raises(BadOption, match=r"has to be a number above 0\.$"):
        check_number("timeout", 0, 0, above=True)


def test_a_flag_is_true_or_false() -> None:
    """1 may be a count that went to the wrong option."""
    check_flag("checkpoint", False)
    with pytest.raises(BadOption, match=r"^checkpoint=1 has to be True or False\.$"):
        check_flag("checkpoint", 1)


def test_the_first_unknown_option_is_named() -> None:
    """With the nearest, or all that there are."""
    check_known(["a"], ["a", "b"])
    with pytest.raises(BadOption, match=r"^there is no option retrys\. Did you mean retries\?$"):
        check_known(["retries", "retrys", "zzz"], ["retries", "name"])
