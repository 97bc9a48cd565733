"""Options are checked when they are said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dagengine import task
from dagengine.errors import BadOption, DefinitionError
from dagengine.options import Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retries": -1}, "retries=-1 has to be a whole number of at least 0"),
        ({"retries": 1.5}, "whole number"),
        ({"retries": True}, "whole number"),
        ({"timeout": 0}, "timeout=0 has to be a number above 0"),
        ({"timeout": float("nan")}, "has to be a number"),
        ({"retry_delay": -1}, "retry_delay"),
        ({"backoff": 0.5}, "backoff"),
        ({"jitter": 2}, "at most 1"),
        ({"cpus": 0}, "cpus"),
        ({"memory": "2GB"}, "memory='2GB'"),
        ({"gpus": 1.5}, "below 1 it is a share"),
        ({"gpus": -1}, "gpus"),
        ({"gpu_memory": 5}, "say that, too"),
        ({"resources": 3}, "has to name amounts"),
        ({"resources": {"licence": 0}}, "licence"),
        ({"resources": {"a/b": 1}}, "without /"),
        ({"priority": 0.5}, "priority"),
        ({"priority": 10**7}, "at most 1000000"),
        ({"node": ""}, "node"),
        ({"grace": -1}, "grace"),
        ({"checkpoint": 1}, "True or False"),
        ({"name": "a/b"}, "without /"),
        ({"name": ""}, "printable"),
        ({"retry_on": 3}, "retry_on takes"),
        ({"retrys": 3}, "Did you mean retries?"),
        ({"zzz": 3}, "There is: retries, "),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(options: dict[str, Any], says: str) -> None:
    """Out of range, of another type, or unknown."""
    with pytest.raises(BadOption) as caught:
        task(**options)(lambda: None)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_belongs_to_a_call() -> None:
    """Two calls of the task would clash."""
    with pytest.raises(DefinitionError, match="belongs to one call"):
        task(key="a")(lambda: None)
    with pytest.raises(BadOption, match="ordinal"):
        task(lambda: None).options(key="3")


def test_delays_grow_vary_and_are_bounded() -> None:
    """delay × backoff^n, ± jitter, at most max_delay; without overflow."""
    options = Options(retry_delay=1, backoff=2, jitter=0.5, max_delay=10)
    assert options.delay(1, 0.5) == 1
    assert options.delay(3, 0.5) == 4
    assert options.delay(3, 0.0) == 2
    assert options.delay(100_000, 0.5) == 10


def test_retry_on_takes_types_and_predicates() -> None:
    """One type, several, or a function of the exception."""
    assert Options().retriable(KeyError())
    assert Options(retry_on=OSError).retriable(TimeoutError())
    assert not Options(retry_on=(OSError, ValueError)).retriable(KeyError())
    assert Options(retry_on=lambda error: "again" in str(error)).retriable(ValueError("again"))


def test_options_survive_the_record() -> None:
    """What is recorded is what was said, without the defaults."""
    options = Options(retries=2, timeout=1.5)
    assert options.to_json() == {"retries": 2, "timeout": 1.5}
    assert Options.from_json(options.to_json()) == options


def test_what_is_recorded_of_options_comes_back() -> None:
    """JSON has no tuples and no order of keys; the options that are read from it are equal."""
    options = Options(gpus=0.5, resources={"licence": 2, "camera": 1}, checkpoint=False, priority=-3, node="here")
    again = Options.from_json(json.loads(json.dumps(options.to_json())))
    assert again == options
    assert hash(again) == hash(options)
    assert Options().to_json() == {}
