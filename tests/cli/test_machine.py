"""What `run` and `resume` let one say of the machine reaches the engine, also that of a process in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from dagengine.cli.machine import machine_options, machine_words, secret_environment
from dagengine.config import load

WORDS = [
    *("--workers", "3", "--memory", "1000", "--object-memory", "2048", "--spill", "/fast"),
    *("--spill", "s3://bucket/spill", "--gpus", "2", "--gpu-memory", "4096", "--resource", "licence=2"),
]


def test_words_become_settings_and_settings_the_same_words(tmp_path: Path) -> None:
    """So a detached run has the machine that was asked for."""
    said: dict[str, Any] = {}

    @click.command()
    @machine_options
    def command(**machine: Any) -> None:
        said.update(machine)

    assert CliRunner().invoke(command, WORDS).exit_code == 0
    environ = {"DAGENGINE_HOME": str(tmp_path)}
    artifacts = ["--artifacts", str(tmp_path / "artifacts")]
    assert machine_words(load(environ=environ, **said)) == [*artifacts, *WORDS]
    CliRunner().invoke(command, [])
    assert machine_words(load(environ={**environ, "DAGENGINE_WORKERS": "1"}, **said)) == [*artifacts, "--workers", "1"]


def test_secrets_of_urls_are_no_words_of_a_process(tmp_path: Path) -> None:
    """Everybody on the machine can read those; they go into the environment, from which the same settings come."""
    urls = ("s3://key:hidden@bucket/spill", "/fast")
    said = load(environ={"DAGENGINE_HOME": str(tmp_path)}, artifacts="s3://key:hidden@bucket", workers=1, spill=urls)
    assert machine_words(said) == ["--workers", "1"]
    again = load(environ={"DAGENGINE_HOME": str(tmp_path), **secret_environment(said)})
    assert (again.artifacts.value, again.spill.value) == ("s3://key:hidden@bucket", urls)
