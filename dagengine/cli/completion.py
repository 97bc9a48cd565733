"""`dagengine completion`: the script by which a shell completes verbs, options and the ids of runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from dagengine.cli import COMPLETE
from dagengine.cli.app import app, common

_WHERE = {
    "bash": 'eval "$(dagengine completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(dagengine completion zsh)"    # in ~/.zshrc',
    "fish": "dagengine completion fish | source    # in ~/.config/fish/config.fish",
}


@click.command(
    "completion",
    short_help="Print the completion script of a shell.",
    epilog="\b\n" + "\n".join(_WHERE.values()),
)
@common
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell."""
    complete = get_completion_class(shell)
    assert complete is not None
    # Not `source()`: click would start bash to look at its version, and warn on stdout if there is none.
    script = complete(app, {}, "dagengine", COMPLETE)
    print(script.source_template % script.source_vars())
