"""The schema's revisions: their list, and that they lead to what a new store gets at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from dagengine import migrations
from dagengine.errors import StoreForeign, StoreNewer, StoreOutdated
from dagengine.storage import revisions, sqlite_files
from dagengine.storage.sqlite import SqliteStore
from tests.storage.kit import DEFINITION, ME, begin, record, recorded, step, succeed, value


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def schema_of(path: str) -> dict[str, str]:
    """Every table and index with its SQL, and what marks the file as ours."""
    connection = sqlite3.connect(path)
    found = {
        name: " ".join(sql.split())
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    }
    for pragma in ("application_id", "journal_mode"):
        found[pragma] = str(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
    [found["revision"]] = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return found


def test_the_list_of_revisions_is_the_one_of_the_folder() -> None:
    """One line of revisions, without branches, oldest first: what opening compares with, and what upgrading runs."""
    found = [script.revision for script in scripts().walk_revisions()]
    assert tuple(reversed(found)) == revisions.REVISIONS
    assert scripts().get_current_head() == revisions.CURRENT


@pytest.mark.parametrize("revision", revisions.REVISIONS)
def test_a_revision_says_why_it_is_there(revision: str) -> None:
    """Each begins with a sentence, and its file with its number."""
    script = scripts().get_revision(revision)
    assert script.doc.endswith(".")
    assert Path(script.path).name.startswith(f"{revision}_")


def test_a_new_store_and_an_upgraded_one_have_the_same_schema(tmp_path: Path) -> None:
    """Whichever way it came to be, a store has the same tables, indexes and marks."""
    SqliteStore(str(tmp_path / "new.db")).close()
    assert sqlite_files.upgrade(str(tmp_path / "upgraded.db")) == ("empty", revisions.CURRENT)
    assert schema_of(str(tmp_path / "upgraded.db")) == schema_of(str(tmp_path / "new.db"))


def test_an_upgraded_store_works(tmp_path: Path) -> None:
    """What a store is for can be done with one that the revisions made."""
    path = str(tmp_path / "store.db")
    sqlite_files.upgrade(path)
    store = SqliteStore(path)
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)), succeed(0, 0))
    assert store.values(claim.run_number, [0]) == {0: value()}
    store.close()


def test_upgrading_leaves_what_is_recorded(tmp_path: Path) -> None:
    """An upgrade of a store that is up to date changes no byte of the database."""
    path = str(tmp_path / "store.db")
    store = SqliteStore(path)
    begin(store)
    store.close()
    before = Path(path).read_bytes()
    assert sqlite_files.upgrade(path) == (revisions.CURRENT, revisions.CURRENT)
    assert Path(path).read_bytes() == before


def store_of(path: str, revision: str) -> None:
    """A store as the code of that revision has made it."""
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with sqlite_files.engine_of(path).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql(f"PRAGMA application_id={revisions.APPLICATION_ID}")


def test_a_store_with_a_run_in_it_is_upgraded_from_each_revision(tmp_path: Path) -> None:
    """It is refused as it is, saying what to do; afterwards its run is there, and can be worked on."""
    for revision in revisions.REVISIONS[:-1]:
        path = str(tmp_path / f"{revision}.db")
        store_of(path, revision)
        connection = sqlite3.connect(path)
        connection.execute(
            "INSERT INTO run (id, workflow, state, token, next_seq, body_closed, created_at, entry, facts, inputs,"
            " result_inputs, call) VALUES ('7f3a', 'nightly', 'pending', 0, 0, 0, 1.0, '{}', '{}', '[]', '[]', x'00')"
        )
        connection.commit()
        connection.close()
        with pytest.raises(StoreOutdated, match="dagengine db upgrade"):
            SqliteStore(path)
        assert sqlite_files.upgrade(path) == (revision, revisions.CURRENT)
        store = SqliteStore(path)
        claim = store.claim("7f3a", ME, lambda _: False)
        recorded(store, claim, record(step(0), definitions=(DEFINITION,)), succeed(0, 0))
        store.close()
        new = str(tmp_path / f"new-{revision}.db")
        SqliteStore(new).close()
        assert schema_of(path) == schema_of(new)


def test_an_upgrade_that_fails_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All revisions are one transaction: an error half-way leaves the store empty, and it can be tried again."""
    from alembic.operations import Operations

    path = str(tmp_path / "store.db")
    with monkeypatch.context() as patch:
        made: list[str] = []
        real = Operations.create_table

        def fail_late(self: Operations, name: str, *rest: Any, **options: Any) -> object:
            made.append(name)
            if name == "attempt":
                raise KeyboardInterrupt
            return real(self, name, *rest, **options)

        patch.setattr(Operations, "create_table", fail_late)
        with pytest.raises(KeyboardInterrupt):
            sqlite_files.upgrade(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    assert sqlite_files.upgrade(path) == ("empty", revisions.CURRENT)


def test_what_is_not_ours_is_not_upgraded(tmp_path: Path) -> None:
    """A foreign database and a newer store are refused, and left as they are."""
    foreign = str(tmp_path / "foreign.db")
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE bookmark (url TEXT)")
    connection.close()
    newer = str(tmp_path / "newer.db")
    SqliteStore(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    for path, error in ((foreign, StoreForeign), (newer, StoreNewer)):
        before = Path(path).read_bytes()
        with pytest.raises(error):
            sqlite_files.upgrade(path)
        assert Path(path).read_bytes() == before
