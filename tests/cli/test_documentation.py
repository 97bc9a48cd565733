"""docs/cli.md names every verb and every option there is."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from dagengine.cli.app import VERBS, app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
NAMES = [name for section in VERBS.values() for name in section]


@pytest.mark.parametrize("name", NAMES)
def test_each_verb_and_its_options_are_documented(name: str) -> None:
    """Under a heading of its own; hidden options are nobody's business."""
    with app.make_context("dagengine", ["version"]) as context:
        command = app.get_command(context, name)
    assert command is not None
    assert f"### {name}\n" in TEXT
    subcommands = list(command.commands.values()) if isinstance(command, click.Group) else []
    for each in [command, *subcommands]:
        for parameter in each.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert any(option in TEXT for option in parameter.opts), f"{name} {parameter.opts}"
