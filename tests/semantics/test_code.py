"""Code stays with its run: packed at the start, imported from the pack by workers and by whoever goes on with the run."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dagengine.code.packing import pack_reference
from dagengine.functions import Reference
from dagengine.storage import open_store
from dagengine.storage.code import all_packs, find_pack, read_files

FLOW = """
from dagengine import get, task, workflow
from parts import helper

@task
def before(x):
    return helper.label(x)

@task
def hold(x, pipe):
    import os, signal
    with open(pipe, "w") as told:
        told.write("begun")
    while os.path.exists(pipe + ".hold"):
        signal.pause()
    return x

@task
def after(x):
    from parts import late
    return [x, helper.label("after"), late.WORD, __file__]

@workflow
def flow(pipe):
    first = get(before("one"))
    held = get(hold(first, pipe))
    return after(held)
"""
HELPER = "VERSION = 1\n\ndef label(x):\n    return f'{x} by {VERSION}'\n"
LATE = "WORD = 'late 1'\n"


def write_project(folder: Path, **files: str) -> Path:
    """A project of a file and a package; returns the file."""
    texts = {"flow.py": FLOW, "parts/__init__.py": "", "parts/helper.py": HELPER, "parts/late.py": LATE, **files}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder / "flow.py"


class Shell:
    """The command line, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.store = home / "store.db"
        self._environment = {**os.environ, "DAGENGINE_HOME": str(home), "PYTHONPATH": _path()}

    def begin(self, *words: str, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dagengine", *words],
            cwd=cwd,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str, cwd: Path, status: int = 0) -> str:
        process = self.begin(*words, cwd=cwd)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == status, errors
        return output + errors


def _path() -> str:
    return os.pathsep.join(path for path in sys.path if path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def killed_in_the_middle(shell: Shell, flow: Path, tmp_path: Path) -> None:
    """A run of which the process group was killed while its second step ran; begun again, that step ends."""
    pipe = tmp_path / "first"
    os.mkfifo(pipe)
    hold = tmp_path / "first.hold"
    hold.touch()
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = shell.begin("run", f"{flow}:flow", f"pipe={pipe}", "--workers", "1", "-q", cwd=flow.parent)
    ended = os.pidfd_open(process.pid)
    ready, _, _ = select.select([reading, ended], [], [])
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    for descriptor in (reading, ended):
        os.close(descriptor)
    assert ready == [reading], errors
    pipe.unlink()
    hold.unlink()


EXPECTED = ["one by 1", "after by 1", "late 1"]


@pytest.mark.parametrize("change", ["edited", "moved"])
def test_a_killed_run_goes_on_with_its_own_code(change: str, home: Path, tmp_path: Path) -> None:
    """Whatever has become of the files, from another folder: the body, the workers, and a module imported late."""
    shell = Shell(home)
    flow = write_project(tmp_path / "project")
    killed_in_the_middle(shell, flow, tmp_path)
    if change == "edited":
        write_project(
            tmp_path / "project",
            **{
                "flow.py": "raise RuntimeError('not this one')\n",
                "parts/helper.py": HELPER.replace("1", "2"),
                "parts/late.py": "WORD = 'late 2'\n",
            },
        )
    else:
        flow.parent.rename(tmp_path / "elsewhere")
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    output = shell("resume", "@last", "--json", "--workers", "1", cwd=elsewhere)
    result = json.loads(output[output.index("{") : output.rindex("}") + 1])["result"]
    assert result == [*EXPECTED, str(flow)]


def test_the_same_code_is_kept_once(tmp_path: Path) -> None:
    """Packed a second time nothing is written; a change of one file adds this file."""
    flow = write_project(tmp_path / "project")
    reference = Reference("flow", "flow", str(flow))
    store = open_store("memory:")
    first = pack_reference(store, reference, str(tmp_path))
    assert first is not None
    assert pack_reference(store, reference, str(tmp_path)) == first
    (pack,) = all_packs(store)
    assert (pack.digest, pack.entry, pack.modules) == (first, "flow", 4)
    write_project(tmp_path / "project", **{"parts/helper.py": HELPER + "# new\n"})
    second = pack_reference(store, reference, str(tmp_path))
    assert second is not None
    assert second != first
    before, after = read_files(store, first), read_files(store, second)
    assert (len(before.keys() & after.keys()), len(after.keys() - before.keys())) == (3, 1)
    manifest = json.loads(find_pack(store, second) or "")
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(manifest["modules"]) == {"flow", "parts", "parts.helper", "parts.late"}
    store.close()
