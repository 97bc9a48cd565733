"""The help that people read first, as it is printed: a change of it is seen in review."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from dagengine.cli.app import VERBS, app
from tests.cli.conftest import Cli

SNAPSHOT = Path(__file__).parent / "help.txt"
NAMES = [name for section in VERBS.values() for name in section]


def test_the_help_is_the_one_in_help_txt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """To accept a change: `dagengine --help > tests/cli/help.txt`."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli("--help").out == SNAPSHOT.read_text()
    assert cli("-h").out == cli().out == SNAPSHOT.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_each_verb_says_the_same_in_the_list_and_by_itself(cli: Cli, name: str) -> None:
    """The list is a table, so that no verb is loaded for it; it must not part from the verbs."""
    command = app.commands.get(name) or app.get_command(app.make_context("dagengine", ["version"]), name)
    assert command is not None
    listed = next(verbs[name] for verbs in VERBS.values() if name in verbs)
    assert command.name == name
    assert command.short_help == listed
    assert command.help is not None
    assert command.help.split()[0] == listed.split()[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_verb_has_a_help(cli: Cli, name: str) -> None:
    """With its usage, and the options that all have."""
    done = cli(name, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: dagengine {name}")
    if not isinstance(app.get_command(app.make_context("dagengine", ["version"]), name), click.Group):
        assert "--store" in done.out
        assert "--json" in done.out
