"""Every numbered example as a user runs it: a script of its own, whose output is what its first lines say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dagengine.functions import load_file

EXAMPLES = Path(__file__).parents[2] / "examples"

PRINTED = {
    "e01_hello": "Hello, world!",
    "e02_fan_out": """
[0, 1, 4, 9, 16, 25, 36, 49]
sum: 140""",
    "e03_retries": """
answered at attempt 3
refused: not a question, at attempt 1""",
    "e04_failure": """
25%
StepSkipped: shares/percent[1] did not run, because shares/invert[1] did not succeed
50%
ZeroDivisionError: division by zero""",
    "e05_branching": "1.414214 after 4 rounds",
    "e06_containers": """
Words
      step 4
  workflow 8
       run 3
longest: workflow""",
    "e07_async": """
9 times, halvings/branch[0]/where[0]
2 times, halvings/branch[1]/where[0]""",
    "e08_subworkflow": """
text of shelf (library/ingest[0]/clean[0])
text of box (library/ingest[1]/clean[0])""",
    "e09_as_completed_first": """
one
one > two
one > two > three
winner: one""",
    "e10_dynamic_map": """
0: #
1: ###
2: #
5: #
6: ##
7: ###
9: ##""",
    "e11_timeouts_and_context": """
pay_and_hang/pay[0]: 1 payment, at attempt 2
ended after 0.5 s""",
    "e12_large_arrays": """
32 MB
499999500000 1499999500000 2499999500000 3499999500000
odd: 4000000000000""",
    "e13_runtime": """
500,000,500,000
seen: 4
0 1 4 9 16""",
    "e14_stateful": """
[90, 70, 40]
1000 is too much, so there are still 40""",
    "e20_effects": """
room in Rome
room in Bern
give back ROOM IN BERN
give back ROOM IN ROME
no money for 2 rooms""",
    "e26_testing_and_sql": """
6.5
6.5
asked: [1, 0]
the same after every crash: succeeded 6.5""",
}


def run_python(folder: Path, *words: str) -> tuple[str, str]:
    """What `python words…` prints and what it tells people, from `folder`, with a home there. It has to end well."""
    result = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "DAGENGINE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_says(name: str, tmp_path: Path) -> None:
    """The script runs alone, in an empty folder and on an empty store, and its output is known."""
    assert run_python(tmp_path, str(EXAMPLES / f"{name}.py")) == (PRINTED[name].removeprefix("\n") + "\n", "")


def test_no_example_is_left_out() -> None:
    """A new example has to come with its output."""
    assert sorted(PRINTED) == sorted(path.stem for path in EXAMPLES.glob("e[0-9]*.py"))


@pytest.mark.parametrize("name", [*PRINTED, "quickstart"])
def test_an_example_says_what_it_shows_and_what_it_prints(name: str) -> None:
    """Its docstring explains the idea, then the output."""
    shows, _, prints = (ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or "").partition("\n\n")
    assert shows
    assert prints.startswith("Prints")


def test_the_quickstart_counts_as_the_plain_function_does(tmp_path: Path) -> None:
    """Run as a script, the quickstart prints what its workflow returns when it is called outside of a run."""
    script = EXAMPLES / "quickstart.py"
    plain = load_file(str(script)).most_common_names()
    assert run_python(tmp_path, str(script))[0] == "".join(f"{times:7,} {name}\n" for name, times in plain)
    assert len(plain) == 10


def test_an_example_runs_from_the_command_line_with_arguments(tmp_path: Path) -> None:
    """`dagengine run FILE.py:NAME key=value` prints the result of the same workflow."""
    words = ("-m", "dagengine", "run", "--quiet", f"{EXAMPLES / 'e01_hello.py'}:hello", "name=Debian")
    assert run_python(tmp_path, *words)[0] == "Hello, Debian!\n"
