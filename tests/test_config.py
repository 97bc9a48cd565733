"""Settings: where each comes from, and what is said of one that can't be meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dagengine.config import (
    available_cpus,
    create_private,
    is_url,
    load,
    store_folder,
    store_path,
    without_password,
)
from dagengine.errors import BadOption, StoreUnavailable


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with a home folder, and nothing else."""
    (tmp_path / "home").mkdir()
    return {"DAGENGINE_HOME": str(tmp_path / "home")}


def test_defaults_lie_in_the_home_folder(environ: dict[str, str]) -> None:
    """With nothing said, the store and its artifacts are in the home folder, and each setting says so."""
    home = environ["DAGENGINE_HOME"]
    settings = load(environ=environ)
    assert settings.home.origin == "DAGENGINE_HOME"
    assert (settings.store.value, settings.store.origin) == (f"{home}/store.db", "default")
    assert (settings.artifacts.value, settings.artifacts.origin) == (f"{home}/artifacts", "default")
    assert (settings.workers.value, settings.workers.origin) == (available_cpus(), "default")


def test_the_home_folder_is_below_the_users_own(tmp_path: Path) -> None:
    """Without DAGENGINE_HOME it is `.dagengine` in the user's home."""
    assert load(environ={"HOME": str(tmp_path)}).home.value == tmp_path / ".dagengine"


def test_reading_settings_creates_nothing(tmp_path: Path) -> None:
    """A home folder that is not there is not made by asking for settings."""
    load(environ={"DAGENGINE_HOME": str(tmp_path / "none")})
    assert not (tmp_path / "none").exists()


def test_an_argument_wins_over_the_environment_over_the_file(environ: dict[str, str]) -> None:
    """The first of argument, environment, file that says something is taken, with its origin."""
    file = Path(environ["DAGENGINE_HOME"]) / "config.toml"
    file.write_text("workers = 3\n")
    assert (load(environ=environ).workers.value, load(environ=environ).workers.origin) == (3, str(file))
    environ["DAGENGINE_WORKERS"] = "5"
    assert (load(environ=environ).workers.value, load(environ=environ).workers.origin) == (5, "DAGENGINE_WORKERS")
    settings = load(environ=environ, workers=7)
    assert (settings.workers.value, settings.workers.origin) == (7, "argument")


def test_an_empty_variable_says_nothing(environ: dict[str, str]) -> None:
    """`DAGENGINE_STORE=` is as if it were not set."""
    assert load(environ={**environ, "DAGENGINE_STORE": ""}).store.origin == "default"


def test_artifacts_logs_and_sockets_lie_beside_the_store(environ: dict[str, str], tmp_path: Path) -> None:
    """A store somewhere else takes with it what belongs to it."""
    settings = load(environ=environ, store=tmp_path / "else" / "runs.db")
    assert settings.artifacts.value == str(tmp_path / "else" / "artifacts")
    assert settings.logs == tmp_path / "else" / "logs"
    assert settings.control == tmp_path / "else" / "control"


def test_a_relative_path_in_the_file_is_relative_to_the_file(environ: dict[str, str]) -> None:
    """It must not depend on the folder that one happens to be in."""
    home = Path(environ["DAGENGINE_HOME"])
    (home / "config.toml").write_text('store = "big/runs.db"\n')
    assert load(environ=environ).store.value == str(home / "big" / "runs.db")


def test_a_relative_argument_is_relative_to_the_working_folder(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everywhere on a command line."""
    monkeypatch.chdir(tmp_path)
    assert load(environ=environ, store="runs.db").store.value == str(tmp_path / "runs.db")


def test_a_slash_at_the_end_names_a_folder(environ: dict[str, str], tmp_path: Path) -> None:
    """The store is `store.db` in it, also where it is not there yet."""
    settings = load(environ=environ, store=f"{tmp_path}/runs/")
    assert settings.folder == tmp_path / "runs"
    assert store_path(settings.store.value) == tmp_path / "runs" / "store.db"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("wokers = 3", "workers"),
        ("workers = 0", "from 1 to"),
        ("workers = 2.5", "2.5"),
        ("workers = true", "True"),
        ("workers = -1", "-1"),
        ("workers = 99999", "99999"),
        ("store = 3", "store is 3"),
        ('store = ""', "store is ''"),
        ("store = [", "not TOML"),
        ("\x00", "not TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(environ: dict[str, str], line: str, named: str) -> None:
    """One line, with the file and what is meant."""
    file = Path(environ["DAGENGINE_HOME"]) / "config.toml"
    file.write_text(f"{line}\n")
    with pytest.raises(BadOption) as caught:
        load(environ=environ)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["many", "0", "-2", "1.5", "9" * 40, "２"])
def test_a_wrong_variable_is_named(environ: dict[str, str], value: str) -> None:
    """The message names DAGENGINE_WORKERS, where it is to be corrected."""
    with pytest.raises(BadOption, match="DAGENGINE_WORKERS"):
        load(environ={**environ, "DAGENGINE_WORKERS": value})


def test_a_file_that_is_not_text_is_named(environ: dict[str, str]) -> None:
    """Bytes that are not UTF-8 are no TOML."""
    (Path(environ["DAGENGINE_HOME"]) / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadOption, match="not TOML"):
        load(environ=environ)


def test_a_folder_in_the_files_place_is_named(environ: dict[str, str]) -> None:
    """`config.toml/` can't be read."""
    (Path(environ["DAGENGINE_HOME"]) / "config.toml").mkdir()
    with pytest.raises(BadOption, match=r"config\.toml can't be read"):
        load(environ=environ)


def test_no_home_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither HOME nor the user is known, it says what to set."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(BadOption, match="Set DAGENGINE_HOME"):
        load(environ={})


def test_a_deleted_working_folder_is_one_line(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means nothing there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(BadOption, match="working folder is gone"):
        load(environ=environ, store="runs.db")


def test_a_private_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0700, whatever stands above it."""
    folder = create_private(tmp_path / "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert create_private(folder) == folder


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    """A file in its place is named."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="a file is in its place"):
        create_private(tmp_path / "file")
    with pytest.raises(StoreUnavailable, match="a file is in its place"):
        create_private(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("store", "folder"),
    [
        ("/data/runs.db", "/data"),
        ("sqlite:///data/runs.db", "/data"),
        ("sqlite:////data/runs.db", "/data"),
        ("memory:", "/home"),
        ("postgresql://me@db/runs", "/home"),
    ],
)
def test_the_folder_of_a_store(store: str, folder: str) -> None:
    """A local store has one; what belongs to any other lies in the home folder."""
    assert store_folder(store, Path("/home")) == Path(folder)


def test_passwords_are_not_shown() -> None:
    """What is printed of a URL has none."""
    assert without_password("postgresql://me:secret@db/runs") == "postgresql://me:…@db/runs"
    assert without_password("postgresql://me@db/runs") == "postgresql://me@db/runs"
    assert without_password("/data/a:b@c") == "/data/a:b@c"


def test_settings_as_json_hide_passwords(environ: dict[str, str]) -> None:
    """`doctor --json` is pasted into reports."""
    shown = load(environ=environ, store="postgresql://me:secret@db/runs").to_json()
    assert "secret" not in str(shown)
    assert shown["store"]["origin"] == "argument"


@pytest.mark.parametrize("text", ["sqlite:///a.db", "memory:", "memory://x", "s3://bucket/x"])
def test_urls_are_known(text: str) -> None:
    """They are not made absolute."""
    assert is_url(text)


@pytest.mark.parametrize("text", ["runs.db", "/a/b:c//d", "C:\\runs", "a b://x"])
def test_paths_are_not_urls(text: str) -> None:
    """A colon alone makes no URL."""
    assert not is_url(text)


def test_cpus_are_those_of_this_process() -> None:
    """Never none, never more than it may run on."""
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def test_what_the_machine_lends_is_said_in_any_of_the_places(environ: dict[str, str]) -> None:
    """Sizes with units, lists by commas; what nobody said is left to the runtime."""
    assert load(environ=environ).of_machine() == {}
    Path(environ["DAGENGINE_HOME"], "config.toml").write_text(
        'object_memory = "512MiB"\nresources = {licence = 2}\nspill = ["/fast", "s3://bucket/spill"]\n'
    )
    environ["DAGENGINE_GPUS"] = "2"
    environ["DAGENGINE_GPU_MEMORY"] = "24GiB"
    assert load(environ=environ, memory=1000).of_machine() == {
        "memory": 1000,
        "object_memory": 512 * 2**20,
        "spill": ("/fast", "s3://bucket/spill"),
        "gpus": 2,
        "gpu_memory": 24 * 2**30,
        "resources": (("licence", 2.0),),
    }
    environ["DAGENGINE_RESOURCES"] = "camera=1,licence=0.5"
    assert load(environ=environ).resources.value == (("camera", 1.0), ("licence", 0.5))
    environ["DAGENGINE_SPILL"] = "/a, /b"
    assert load(environ=environ).spill.value == ("/a", "/b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", "much"),
        ("object_memory", -5),
        ("object_memory", True),
        ("gpus", "two"),
        ("gpus", -1),
        ("gpu_memory", "1XB"),
        ("spill", " "),
        ("spill", 7),
        ("resources", "licence"),
        ("resources", {"licence": -1}),
        ("resources", {"licence": "inf"}),
    ],
)
def test_what_the_machine_can_not_lend_is_refused_by_name(environ: dict[str, str], name: str, value: object) -> None:
    """One line, with the setting and where it came from."""
    said: dict[str, Any] = {name: value}
    with pytest.raises(BadOption, match=rf"^{name} is .*argument.*Give "):
        load(environ=environ, **said)


def test_an_unknown_setting_of_the_machine_is_named(environ: dict[str, str]) -> None:
    """With the nearest that there is."""
    with pytest.raises(BadOption, match=r"Did you mean gpus\?"):
        load(environ=environ, gpu=1)
