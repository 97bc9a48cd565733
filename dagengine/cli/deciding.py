"""What the verbs that change a run have alike: who makes the change and why, and the run that it is made to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

Function = TypeVar("Function", bound=Callable[..., Any])


def note_options(function: Function) -> Function:
    """Arrive as `by` and `why`."""
    function = click.option("--why", default="", metavar="TEXT", help="The reason, for the record.")(function)
    return click.option("--by", metavar="NAME", help="Who decides, instead of the user of this process.")(function)


@contextmanager
def changing(settings: Settings) -> Iterator[Store]:
    """The store, to write to."""
    from dagengine.storage import open_store

    store = open_store(settings.store.value)
    try:
        yield store
    finally:
        store.close()
