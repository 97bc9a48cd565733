"""From what a user writes to a store: URLs, paths, folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagengine.errors import StoreUnavailable
from dagengine.storage import open_artifacts, open_store, upgrade
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.memory import MemoryStore
from dagengine.storage.remote_artifacts import FsspecArtifacts
from dagengine.storage.revisions import CURRENT
from dagengine.storage.sqlite import SqliteStore


@pytest.mark.parametrize(
    "form", ["{0}/runs.db", "sqlite://{0}/runs.db", "sqlite:///{0}/runs.db", "SQLite://{0}/runs.db"]
)
def test_a_path_and_a_url_lead_to_the_same_file(tmp_path: Path, form: str) -> None:
    """However it is written, the store knows itself by the URL of its file."""
    store = open_store(form.format(tmp_path))
    assert isinstance(store, SqliteStore)
    assert store.url == f"sqlite://{tmp_path}/runs.db"
    store.close()
    assert (tmp_path / "runs.db").is_file()


@pytest.mark.parametrize("form", ["{0}", "{0}/", "{0}/new/"])
def test_a_folder_holds_its_store_under_a_name_of_ours(tmp_path: Path, form: str) -> None:
    """An existing folder, or one that is named with a slash, has the file `store.db`."""
    open_store(form.format(tmp_path)).close()
    assert [file.name for file in tmp_path.rglob("*.db")] == ["store.db"]


def test_a_relative_path_is_one_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the store keeps to it when the program goes elsewhere."""
    monkeypatch.chdir(tmp_path)
    store = open_store("runs.db")
    assert store.url == f"sqlite://{tmp_path}/runs.db"
    store.close()


def test_a_colon_in_a_name_needs_a_folder_in_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be taken for a URL."""
    monkeypatch.chdir(tmp_path)
    open_store("./runs:2013.db").close()
    assert (tmp_path / "runs:2013.db").is_file()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/runs.db").close()
    assert (tmp_path / "runs.db").is_file()


@pytest.mark.parametrize("url", ["memory:", "memory://"])
def test_memory_is_a_new_store_each_time(url: str) -> None:
    """Nothing is shared, and nothing is kept."""
    store = open_store(url)
    assert isinstance(store, MemoryStore)
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql+pymysql://me:secret@db/runs", "mysql+pymysql: stores can't be opened"),
        ("memory:secret", "memory: stores can't be opened"),
        ("sqlite:", "without the path of a file"),
        ("sqlite:secret.db", "without the path of a file"),
        ("sqlite://", "without the path of a file"),
        ("sqlite:///", "without the path of a file"),
        ("sqlite://secret@host/runs.db", "without the path of a file"),
    ],
)
def test_what_can_t_be_opened_is_told_with_what_can(url: str, said: str) -> None:
    """One line, with what is supported, and without what may be a password."""
    with pytest.raises(StoreUnavailable) as caught:
        open_store(url)
    text = str(caught.value)
    assert said in text
    assert "sqlite:///path/store.db" in text
    assert "secret" not in text + caught.value.store
    assert "\n" not in text


def test_artifacts_are_in_a_folder_or_at_a_url(tmp_path: Path) -> None:
    """A path and a file: URL are a local folder; any other URL is fsspec's, and needs a cache."""
    for form in (f"{tmp_path}/artifacts", f"file://{tmp_path}/artifacts"):
        local = open_artifacts(form)
        assert isinstance(local, LocalArtifacts)
        assert local.url == f"{tmp_path}/artifacts"
    remote = open_artifacts("memory://artifacts", str(tmp_path / "cache"))
    assert isinstance(remote, FsspecArtifacts)
    home = tmp_path / "new" / "home"
    open_artifacts("memory://artifacts", str(home / "cache"))
    assert {folder.stat().st_mode & 0o777 for folder in (home.parent, home, home / "cache")} == {0o700}
    with pytest.raises(StoreUnavailable, match="as a cache") as caught:
        open_artifacts("s3://key:secret@bucket/artifacts")
    assert "secret" not in str(caught.value)


def test_artifacts_of_an_unknown_kind_are_told_in_one_line(tmp_path: Path) -> None:
    """fsspec's own errors, also about missing packages, become ours, without the password of the URL."""
    for url in ("nonsense://me:secret@host/artifacts", "adl://me:secret@host/artifacts"):
        with pytest.raises(StoreUnavailable) as caught:
            open_artifacts(url, str(tmp_path / "cache"))
        assert "secret" not in str(caught.value) + caught.value.store
        assert "\n" not in str(caught.value)


def test_upgrading_a_new_store_makes_it(tmp_path: Path) -> None:
    """upgrade says from where to where it went, and an up-to-date store is left as it is."""
    path = str(tmp_path / "store.db")
    assert upgrade(path) == ("empty", CURRENT)
    assert upgrade(path) == (CURRENT, CURRENT)
    open_store(path).close()


def test_memory_has_nothing_to_upgrade() -> None:
    """A store without a schema says so."""
    with pytest.raises(StoreUnavailable, match="no schema"):
        upgrade("memory:")
