"""The stores that each released revision has left in the middle of a run, as they are found in `stores/`.

`stores/REVISION.sql` is what SQLite's `iterdump` said of one, `stores/postgres/REVISION.sql` what `pg_dump --inserts` said,
without names of machines; their one artifact lies beside. (There were no stores on PostgreSQL before 0003.)
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from dagengine.storage import revisions
from tests.postgres.server import fresh_schema, shared

STORES = Path(__file__).parent / "stores"
ROOT = Path(__file__).resolve().parents[2]

OLD = [("sqlite", revision) for revision in revisions.REVISIONS[:-1]]
OLD += [("postgres", revision) for revision in revisions.REVISIONS[2:-1]]


def make(kind: str, revision: str, folder: Path) -> str:
    """The store, as if its process had died on this machine before it was booted, with its artifacts in `folder`."""
    shutil.copytree(STORES / "artifacts", folder / "artifacts")
    if kind == "postgres":
        schema = fresh_schema()
        text = (STORES / "postgres" / f"{revision}.sql").read_text()
        shared().run(text.replace("fixture.", f"{schema}.").replace("SCHEMA fixture", f"SCHEMA {schema}"))
        shared().run(f"UPDATE {schema}.process SET host = '{platform.node()}'")
        return shared().url(schema)
    connection = sqlite3.connect(folder / "store.db")
    connection.executescript((STORES / f"{revision}.sql").read_text())
    connection.execute(f"PRAGMA application_id={revisions.APPLICATION_ID}")
    connection.execute("UPDATE process SET host = ?", [platform.node()])
    connection.commit()
    connection.close()
    return str(folder / "store.db")


DIES = """
import os, signal
from alembic.operations import Operations
real = Operations.create_index
def die(self, name, *rest, **options):
    made = real(self, name, *rest, **options)
    if name == "tag_value":
        os.kill(os.getpid(), signal.SIGKILL)
    return made
Operations.create_index = die
"""
"""An upgrade that is killed after the last index of it was made, and before it is committed."""

WAITS = """
import sys
from alembic.operations import Operations
real = Operations.create_index
def wait(self, name, *rest, **options):
    if name == "tag_value":
        print("half-way", flush=True)
        sys.stdin.readline()
    return real(self, name, *rest, **options)
Operations.create_index = wait
"""
"""An upgrade that stops half-way until it is told to go on."""


def upgrading(url: str, before: str = "") -> subprocess.Popen[str]:
    """A process that upgrades the store. Its output ends with the revisions before and after."""
    code = f"{before}\nfrom dagengine.storage import upgrade\nprint(*upgrade({url!r}), flush=True)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
