"""What a person pastes into a shell to see to a run: the whole command, with the store that it needs.

Imports nothing of ours until it is asked about a client.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.client import Client


def command(verb: str, run_id: str, store: str = "") -> str:
    """`dagengine VERB RUN`. `store`: as of `store_of`."""
    return f"dagengine {verb} {run_id[:12]}{f' --store {shlex.quote(store)}' if store else ''}"


def store_of(client: Client) -> str:
    """What has to be said after --store for the client's runs to be found, without a password; "" if the settings say it."""
    from dagengine.config import without_password

    setting = client.settings.store
    return without_password(setting.value) if setting.origin == "argument" else ""
