from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTED = ROOT / "tests" / "examples" / "typed_workflow.py"


def check(command: list[str], **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_mypy_strict_understands_a_documented_workflow(tmp_path: Path) -> None:
    """Refs pass as values, waits give values, options are checked, and wrong arguments are refused."""
    settings = tmp_path / "mypy.ini"  # a user's project, not ours: nothing is excused
    settings.write_text("[mypy]\nstrict = true\nexplicit_package_bases = true\n")
    command = ["mypy", "--config-file", str(settings), "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    assert "1 source file" in check([*command, str(DOCUMENTED)], MYPYPATH=str(ROOT))


def test_pyright_understands_a_documented_workflow(tmp_path: Path) -> None:
    """The checker of most editors comes to the same conclusions, in its strict mode."""
    shutil.copy(DOCUMENTED, tmp_path)  # pyright takes no files from outside of the project's folder
    settings = {
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,  # those are for mypy
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = ["pyright", "--project", str(project), "--pythonpath", sys.executable, "--outputjson"]
    summary = json.loads(check(command, PYRIGHT_PYTHON_IGNORE_WARNINGS="1"))["summary"]
    assert (summary["filesAnalyzed"], summary["errorCount"]) == (1, 0)
