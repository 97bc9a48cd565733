"""The verbs on a store that is a server."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dagengine import config
from dagengine.cli import checks
from dagengine.storage.postgres import PostgresStore
from tests.postgres.conftest import Open
from tests.postgres.server import Server, binaries, fresh_schema, shared
from tests.postgres.test_opening import schema_of
from tests.storage.kit import PATIENCE

pytestmark = pytest.mark.timeout(
    1800
)  # each verb is an interpreter of its own, which a busy machine takes long to start

FLOW = """
from dagengine import task, workflow

@task
def double(x: int) -> int:
    return 2 * x

@workflow
def flow(x: int) -> int:
    return double(double(x))
"""


def dagengine(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"DAGENGINE_HOME": str(folder), "PYTHONPATH": ":".join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-m", "dagengine", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("detach", [False, True])
def test_a_run_on_a_server_is_run_shown_and_checked(tmp_path: Path, detach: bool) -> None:
    """From the first `run`, which makes the tables, to `db check`; also by a process of its own."""
    (tmp_path / "flow.py").write_text(FLOW)
    at = ("--store", shared().url(fresh_schema(), lease="600"))
    done = dagengine(tmp_path, "run", "flow.py", "x=10", "--run-id", "r1", *at, *(["--detach"] if detach else []))
    assert done.returncode == 0, done.stderr
    assert dagengine(tmp_path, "wait", "r1", *at).returncode == 0
    assert dagengine(tmp_path, "result", "r1", *at).stdout.strip() == "40"
    shown = json.loads(dagengine(tmp_path, "show", "r1", "--json", *at).stdout)
    assert (shown["state"], len(shown["steps"])) == ("succeeded", 2)
    checked = json.loads(dagengine(tmp_path, "db", "check", "--json", *at).stdout)
    assert (checked["sound"], checked["runs"], checked["steps"]) == (True, 1, 2)


def test_the_password_is_not_shown(tmp_path: Path) -> None:
    """Where what is to be typed next names the store that was given by hand, and in JSON. The story: it was, in both."""
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "bad.py").write_text(FLOW.replace("return 2 * x", "return 1 // x"))
    at = ("--store", shared().url(fresh_schema(), user="tester:open-sesame"))
    said = [
        dagengine(tmp_path, *words, *at)
        for words in (
            ("db", "upgrade", "--json"),
            ("run", "bad.py", "x=0", "--run-id", "failed"),
            ("show", "failed"),
            ("errors", "failed"),
            ("submit", "flow.py", "x=1", "--run-id", "left"),
            ("run", "flow.py", "x=1", "--run-id", "detached", "--detach"),
            ("wait", "detached"),
            ("doctor",),
        )
    ]
    text = "\n".join(done.stdout + done.stderr for done in said)
    assert "dagengine resume failed --store 'postgresql://tester:…@/" in text
    assert "open-sesame" not in text


def test_the_copy_that_is_advised_is_a_whole_store(tmp_path: Path) -> None:
    """`db backup` says a command, without the password; what that has copied is restored, and is sound."""
    schema = fresh_schema()
    url = shared().url(schema, user="tester:s3cret")
    PostgresStore(url).close()
    shared().run(f"INSERT INTO {schema}.process VALUES ('p', 'h', 'b', 1, 1, 1, 1)")
    told = dagengine(tmp_path, "db", "backup", str(tmp_path / "copy"), "--store", url)
    assert (told.returncode, told.stderr.count("\n")) == (5, 1)
    assert "s3cret" not in told.stderr
    command = shlex.split(told.stderr.partition("own tools: ")[2])
    subprocess.run([binaries() / command[0], *command[1:]], check=True, timeout=PATIENCE)
    before = schema_of(schema)
    shared().run(f"DROP SCHEMA {schema} CASCADE")
    restore = ["pg_restore", "-h", str(shared().folder), "-U", "tester", "-d", "postgres", str(tmp_path / "copy")]
    subprocess.run([binaries() / restore[0], *restore[1:]], check=True, timeout=PATIENCE)
    assert schema_of(schema) == before
    assert shared().run(f"SELECT id FROM {schema}.process") == [("p",)]
    assert json.loads(dagengine(tmp_path, "db", "check", "--json", "--store", url).stdout)["sound"]


def test_a_server_that_is_down_is_one_line(tmp_path: Path) -> None:
    """Status 5, with what to do; `--connect-timeout` waits first."""
    for words in ((), ("--connect-timeout", "0.1")):
        done = dagengine(tmp_path, "ls", "--store", "postgresql://me:s3cret@/runs?host=/nowhere", *words)
        assert done.returncode == 5
        [line] = done.stderr.splitlines()
        assert line.startswith("error: the store postgresql://me@/runs?host=/nowhere can't be reached")
        assert ("--connect-timeout" in line) is (not words)


def test_doctor_says_that_a_server_is_not_safe(server: Server, open_store: Open, tmp_path: Path) -> None:
    """It is a warning beside a store that is sound."""
    server.restart(full_page_writes="off")
    open_store(server.url()).close()
    findings = list(checks.store(config.load(home=tmp_path, store=server.url())))
    assert [(found.what, found.level) for found in findings] == [("durability", "warn"), ("store", "ok")]
    assert "full_page_writes = off" in findings[0].text
