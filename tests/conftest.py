"""What every test stands on: the package of this checkout, a home of its own, and property tests without a clock."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).resolve().parent.parent

# Airflow pins much, and so has an environment of its own (.venv-airflow, see the Makefile).
collect_ignore = [] if importlib.util.find_spec("airflow") else ["airflow"]

# A busy machine must not fail a property: no deadline, no check that examples are made quickly, and no explaining, which
# traces every line of what is tested and takes minutes of some. Nor must chance: the same examples each time, others with
# `--hypothesis-profile=searching`.
settings.register_profile(
    "dagengine",
    deadline=None,
    derandomize=True,
    phases=tuple(phase for phase in Phase if phase is not Phase.explain),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("searching", settings.get_profile("dagengine"), derandomize=False, print_blob=True)
settings.load_profile("dagengine")


@pytest.fixture(autouse=True, scope="session")
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody's store is touched: home and settings are fresh, for the processes that tests start, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DAGENGINE_")]:
            patch.delenv(name)
        patch.setenv("DAGENGINE_HOME", str(tmp_path_factory.mktemp("home")))
        # New interpreters find the package of this checkout, whatever is installed.
        patch.setenv("PYTHONPATH", str(ROOT))
        # The environment may force colours on or off, or claim a terminal; what is printed is to be the same anywhere.
        for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "COLUMNS"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm-256color")  # tests of a terminal that can do less say so themselves
        # What other tests have imported here (pandas, say) is nothing for the workers of each test to wait for.
        patch.setattr("dagengine.runtime.forker.PRELOAD", ())
        yield
