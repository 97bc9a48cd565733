"""Definitions of a run's functions: which have to be recorded yet."""

from __future__ import annotations

from dagengine import task
from dagengine.definitions import Definitions
from dagengine.model import Definition


@task
def double(x: int) -> int:
    return 2 * x


def test_a_changed_function_is_recorded_with_the_first_step_that_needs_it() -> None:
    """Found by the crashes at each write: on replay a recorded step had answered the first call of a function that had
    changed since, and the next call was recorded under a definition that nobody had recorded."""
    definitions = Definitions()
    definitions.learn(Definition(0, "double", {"module": "m", "qualname": "double"}, {}, "as it was"))
    number, new = definitions.of(double)
    assert (number, new) == definitions.of(double)
    assert new is not None
    definitions.recording(new)
    assert definitions.of(double) == (number, None)


def test_numbers_are_not_given_twice_where_one_was_never_recorded() -> None:
    """A number that a process had given, and did not come to record, leaves a gap that stays one."""
    definitions = Definitions()
    definitions.learn(Definition(2, "other", {"module": "m", "qualname": "other"}, {}))
    assert definitions.of(double)[0] == 3
