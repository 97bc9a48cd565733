"""The database file: who may read it, whose it is, and what a user is told when it can't be used."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine.errors import StoreError, StoreForeign, StoreNewer, StoreOutdated, StoreUnavailable
from dagengine.storage import sqlite_files
from dagengine.storage.revisions import APPLICATION_ID, CURRENT
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import DEFINITION, PATIENCE, begin, record, recorded, step, succeed


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run_python(*lines: str, count: int = 1) -> list[str]:
    """What `count` new interpreters print, which all run `lines` at the same time."""
    script = "\n".join(lines)
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    told = []
    for one in running:
        out, err = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, err
        told.append(out.strip())
    return told


def test_a_new_store_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    """The folder is for its owner only, and so is every file that SQLite puts into it."""
    folder = tmp_path / "home"
    store = SqliteStore(str(folder / "store.db"))
    begin(store)
    assert mode_of(folder) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["store.db", "store.db-shm", "store.db-wal"]
    assert [mode_of(file) for file in files] == [0o600] * 3
    store.close()


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    """A folder that the user made is not ours to close."""
    tmp_path.chmod(0o755)
    SqliteStore(str(tmp_path / "store.db")).close()
    assert mode_of(tmp_path) == 0o755


def test_what_is_recorded_is_there_when_the_store_is_opened_again(path: str) -> None:
    """Closed and opened, a store answers as before, and nothing but the database is left of the first time."""
    store = SqliteStore(path)
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1, 0), definitions=(DEFINITION,)), succeed(0, 0))
    before = (store.find_run("7f3a"), store.frontier(claim.run_number), store.values(claim.run_number, [0]))
    store.close()
    assert [file.name for file in Path(path).parent.iterdir()] == ["store.db"]
    again = SqliteStore(path)
    assert (again.find_run("7f3a"), again.frontier(claim.run_number), again.values(claim.run_number, [0])) == before
    again.close()


def test_an_empty_file_becomes_a_store(path: str) -> None:
    """A file without a byte is what a crash before the first transaction leaves."""
    Path(path).touch()
    store = SqliteStore(path)
    assert store.check()["revision"] == CURRENT
    store.close()


def test_many_processes_may_open_a_new_store_at_once(path: str) -> None:
    """All of them find a whole schema, and what each writes is there."""
    told = run_python(
        "import os, time",
        "from dagengine.storage.sqlite import SqliteStore",
        "from tests.storage.kit import begin",
        f"store = SqliteStore({path!r})",
        "begin(store, f'run-{os.getpid()}')",
        "print(store.check()['revision'])",
        "store.close()",
        count=4,
    )
    assert told == [CURRENT] * 4
    store = SqliteStore(path)
    assert (store.check()["runs"], store.check()["integrity"]) == (4, "ok")
    store.close()


def test_opening_a_store_that_is_there_needs_no_migrations(path: str) -> None:
    """Alembic is as slow to import as all the rest: a store that is up to date is opened without it."""
    SqliteStore(path).close()
    [told] = run_python(
        "import sys",
        "from dagengine.storage import open_store",
        "light = {'sqlalchemy', 'alembic', 'fsspec', 'sqlite3'} & set(sys.modules)",
        f"open_store({path!r}).close()",
        "print(sorted(light), 'sqlalchemy' in sys.modules, 'alembic' in sys.modules)",
    )
    assert told == "[] True False"


# ---- what can't be used ---------------------------------------------------------------------


def told_of(path: str, kind: type[StoreError]) -> str:
    """The error on opening, which is one line that names the file."""
    with pytest.raises(kind) as caught:
        SqliteStore(path)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert path in text
    assert "\n" not in text
    assert caught.value.store == f"sqlite://{path}"
    return text


def test_the_database_of_another_application_is_refused(path: str) -> None:
    """By its application id, or by tables that are not ours; and it is left as it is."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmark (url TEXT)")
    other.close()
    before = Path(path).read_bytes()
    assert "another application" in told_of(path, StoreForeign)
    assert Path(path).read_bytes() == before
    Path(path).unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA application_id=252006673")
    other.close()
    assert "another application" in told_of(path, StoreForeign)


def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    """And left as it is."""
    Path(path).write_text("notes on the nightly run\n" * 100)
    assert "not a database" in told_of(path, StoreForeign)
    assert Path(path).read_text() == "notes on the nightly run\n" * 100


def set_revision(path: str, revision: str) -> None:
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.commit()
    connection.close()


def test_a_newer_schema_is_refused(path: str) -> None:
    """A revision that this code has never heard of was written by a newer one."""
    set_revision(path, "9999")
    text = told_of(path, StoreNewer)
    assert "9999" in text
    assert CURRENT in text


def test_an_older_schema_asks_to_be_upgraded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision before the current one names the command that upgrades it."""
    set_revision(path, "0000")
    monkeypatch.setattr(sqlite_files, "REVISIONS", ("0000", CURRENT))
    assert "`dagengine db upgrade`" in told_of(path, StoreOutdated)


def test_a_directory_is_not_a_store(path: str) -> None:
    """Where a file is wanted, a directory is called one."""
    Path(path).mkdir()
    assert "is a directory" in told_of(path, StoreUnavailable)


def test_only_one_folder_is_made(tmp_path: Path) -> None:
    """A path that is wrong further up is not made to exist."""
    text = told_of(str(tmp_path / "no" / "such" / "store.db"), StoreUnavailable)
    assert f"there is no folder {tmp_path}/no" in text
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    """The part of the path that is wrong is the one that is named."""
    (tmp_path / "file").touch()
    assert "file is not a folder" in told_of(str(tmp_path / "file" / "store.db"), StoreUnavailable)


def test_a_folder_that_is_not_writable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of making the file is passed on."""
    # Permissions do not stop the superuser, whom tests may run as: the refusal is played.
    real = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    assert "permission denied" in told_of(str(tmp_path / "store.db"), StoreUnavailable)


def test_the_application_id_marks_our_files(path: str) -> None:
    """`file store.db` and everybody else can tell whose database it is."""
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert APPLICATION_ID.to_bytes(4) == b"dage"
    connection.close()
