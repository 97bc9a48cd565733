"""What starts quickly loads little: heavy libraries wait for their first use.

The modules that are loaded are asserted; the time that it takes is printed (`pytest -s`), because it says as much about
the machine and its load as about the code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

HEAVY = ("alembic", "cloudpickle", "grpc", "matplotlib", "networkx", "numpy", "pandas", "pyarrow", "sqlalchemy")
"""No library of these is needed to define a workflow or to read a command line."""

FRONT_ONLY = ("asyncio", "click", "fsspec", "msgspec", "multiprocessing", "rich", "sqlite3")
"""Not needed to define a workflow. (click reads the command line.)"""

AFTER = """
import json, sys
sys.stderr.write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def _loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`. Prints what it took over a bare one."""
    # -S: what the installation's own .pth files load is not ours. -X importtime would slow what is measured.
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], paths])}

    def run(text: str) -> tuple[float, str]:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-S", "-c", text], env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        return seconds, done.stderr

    bare, _ = run("pass")
    full, said = run(code + AFTER)
    print(f"{(full - bare) * 1e3:.0f} ms over a bare interpreter ({bare * 1e3:.0f} ms): {code.strip().splitlines()[0]}")
    return set(json.loads(said))


def test_importing_the_package_loads_no_heavy_library() -> None:
    """A user's module, and each worker that loads it, pays for the names of dagengine only."""
    loaded = _loaded_by("import dagengine")
    assert "dagengine" in loaded
    assert not loaded & {*HEAVY, *FRONT_ONLY}


def test_defining_a_workflow_loads_no_heavy_library() -> None:
    """The decorators are usable without whatever it takes to run something."""
    loaded = _loaded_by("from dagengine import task, workflow; workflow(task(len))")
    assert not loaded & {*HEAVY, *FRONT_ONLY} - {"asyncio"}


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["run", "--help"]], ids=" ".join)
def test_the_command_line_answers_without_heavy_libraries(arguments: list[str]) -> None:
    """Help and the version come at once: the verbs load what they need when they are called."""
    loaded = _loaded_by(f"from dagengine.cli import main; status = main({arguments}); assert status == 0, status")
    assert "click" in loaded
    assert not loaded & {*HEAVY, "rich", "sqlite3"}
