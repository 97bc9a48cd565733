"""Random workflow programs come to what plain Python says, whatever crashes.

DAGENGINE_ORACLE_EXAMPLES=2000 makes it look for longer.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dagengine.model import RunState
from dagengine.testing import VirtualClock, crash_at
from tests.semantics.programs import PROGRAMS, Program, plain, program

EXAMPLES = int(os.environ.get("DAGENGINE_ORACLE_EXAMPLES", "60"))

DEATHS = st.lists(st.tuples(st.integers(2, 14), st.booleans()), max_size=3)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(PROGRAMS, DEATHS)
def test_a_program_comes_to_what_plain_python_says(tree: Program, deaths: list[tuple[int, bool]]) -> None:
    """Whatever the program is made of, and wherever its processes die."""
    event(f"{len(deaths)} deaths")
    clock = VirtualClock()
    assert crash_at(deaths, program, tree, clock=lambda: clock) == (RunState.SUCCEEDED, plain(tree))
