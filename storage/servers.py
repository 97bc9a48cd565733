"""The processes that serve a store, so that what one of them had is found when it is gone.

Which process lives is proved on its own machine by what `model.ProcessRecord` holds (`dagengine.identity`). Elsewhere its
row says when it was seen last. Whoever changes something that a server acts on tells all of them, where the database can.

May import nothing of ours but model and modules of storage.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, select

from dagengine.model import ProcessRecord
from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import SERVER
from dagengine.storage.statements import Query

STALE_SECONDS = 90.0
"""Without a word for so long, a server of another machine is taken for gone. Its runs have leases of their own, and are
never worked on twice; only what it had not begun yet is given to another one."""

_EAR = "serve"
"""All servers of a database listen for one word. One that is meant for another store's costs a look."""

_SAVE = Query(upsert(SERVER, ("id",)))
_ALL = Query(lambda: select(SERVER.c.id, SERVER.c.process, SERVER.c.settings, SERVER.c.seen_at).order_by(SERVER.c.id))
_REMOVE = Query(lambda: delete(SERVER).where(SERVER.c.id == bindparam("gone")))
_NOTIFY = Query(lambda: select(func.pg_notify(f"dagengine_{_EAR}", "")))


class Server(NamedTuple):
    process: ProcessRecord
    settings: dict[str, Any]
    seen_at: float

    def lives(self, proved: bool | None, now: float) -> bool:
        """Whether it can be taken for alive. `proved`: what `identity.proof` says of its process; None: then by when it was
        seen."""
        return now - self.seen_at < STALE_SECONDS if proved is None else proved


def seen(store: Store, process: ProcessRecord, settings: dict[str, Any], now: float) -> None:
    """The process serves the store, and lives."""
    facts = {name: fact for name, fact in asdict(process).items() if name != "leased"}
    row = {"id": process.id, "process": json.dumps(facts), "settings": json.dumps(settings), "seen_at": now}
    store.side(lambda connection: _SAVE(connection, **row) and None)


def servers(store: Store) -> dict[str, Server]:
    """All that there are, by id; also those that ended without saying so."""
    rows = store.ask(_ALL)
    leased = store.lease is not None
    return {
        id_: Server(ProcessRecord(**json.loads(process), leased=leased), json.loads(settings), seen_at)
        for id_, process, settings, seen_at in rows
    }


def forget(store: Store, server: str) -> None:
    store.side(lambda connection: _REMOVE(connection, gone=server) and None)


def tell(store: Store) -> None:
    """Tell all servers to look, where the database can; elsewhere they have sockets."""
    if store.lease is not None:
        store.side(lambda connection: notify(store, connection))


def notify(store: Store, connection: Any) -> None:
    """As `tell`, when the transaction that is open is done."""
    if store.lease is not None:
        _NOTIFY(connection)


def listen(store: Store, process: ProcessRecord, seconds: float) -> bool:
    """Wait until somebody `tell`s, for `seconds` at most. False at once where the database can't be listened to."""
    if store.lease is None:
        return False
    store.listen(replace(process, id=_EAR), seconds)
    return True
