"""Where a task's runs are: what `conn_id` and `store` of an operator or a sensor say, or leave to be said elsewhere.

    store       a path or URL, without a password: what a DAG says, Airflow shows
    conn_id     a connection of type `dagengine`
    neither     the connection "dagengine_default", if there is one; else the store that dagengine is set to where the task,
                or the triggerer, runs

Imports nothing of Airflow and nothing heavy until a task runs. Of ours it may import errors, addresses, config and the hook.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dagengine.errors import BadOption

if TYPE_CHECKING:
    from dagengine.airflow_plugin.addresses import Address
    from dagengine.airflow_plugin.commands import CommandClient
    from dagengine.client import Client


class Place(NamedTuple):
    """`conn_id`, `store`: what another process has to be told to find the same place; without secrets. Neither: nothing."""

    conn_id: str | None
    store: str | None
    address: Address


def place_of(conn_id: str | None, store: str | None) -> Place:
    """Raises what `DagengineHook.address` does."""
    from dagengine.airflow_plugin.addresses import Address
    from dagengine.airflow_plugin.hook import DagengineHook

    if store is not None:
        return Place(None, checked := _checked(store), Address(checked))
    hook = DagengineHook(conn_id or DagengineHook.default_conn_name)
    if conn_id is None and not hook.is_there():
        return Place(None, None, Address())
    return Place(hook.get_conn_id(), None, hook.address)


def open_client(conn_id: str | None, store: str | None, python: str | None = None) -> Client | CommandClient:
    """A client of that place, for the caller to close, to look at what is there: it makes no store.

    It does not wait for a database that is gone: who asks again waits.

    python: the interpreter of the environment that has the engine, if the connection does not say it
    """
    address = place_of(conn_id, store).address
    if python is not None or address.python is not None:
        from dagengine.airflow_plugin.commands import CommandClient

        return CommandClient(python or str(address.python), **address.options)
    from dagengine.client import Client

    client = Client(**address.options, make=False)
    client.store.hurry()
    return client


def _checked(store: str) -> str:
    """Raises BadOption."""
    if "://" not in store:
        path = Path(store).expanduser()
        if not path.is_absolute():
            raise BadOption(
                f"store={store!r} is relative, and Airflow runs its tasks in any folder. Give the whole path, a URL, or a"
                " connection (conn_id)."
            )
        return str(path)
    from dagengine.config import without_password

    if without_password(store) != store:
        raise BadOption(
            f"store={without_password(store)!r} has a password in it, which Airflow would show. Add a connection of type"
            " dagengine, and name it: conn_id=…"
        )
    return store
