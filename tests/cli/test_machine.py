"""What `run` and `resume` let one say of the machine reaches the engine, also that of a process in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from dagengine.cli.machine import machine_options, machine_words
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
    assert machine_words(load(environ=environ, **said)) == WORDS
    CliRunner().invoke(command, [])
    assert machine_words(load(environ={**environ, "DAGENGINE_WORKERS": "1"}, **said)) == ["--workers", "1"]
