"""What the verbs that change a run have alike: who makes the change and why, and the run that it is made to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    pass

Function = TypeVar("Function", bound=Callable[..., Any])


def note_options(function: Function) -> Function:
    """Arrive as `by` and `why`."""
    function = click.option("--why", default="", metavar="TEXT", help="The reason, for the record.")(function)
    return click.option("--by", metavar="NAME", help="Who decides, instead of the user of this process.")(function)
