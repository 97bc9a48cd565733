"""Airflow's connections for `dagengine.sql(..., conn_id=)`: what one is, and an engine of SQLAlchemy's through its hook.

Who asks is `dagengine.connections`: in the process of a DAG's task, where Airflow's supervisor answers; in a worker, with
what that process was answered; anywhere else, where AIRFLOW_CONN_… and the configured secrets backends answer. No metadata
database is needed, or touched.

May import Airflow, errors and functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from dagengine.errors import BadArguments
from dagengine.functions import describe

_QUIET = logging.getLogger("dagengine.hooks")
_QUIET.setLevel(logging.WARNING)


def described(conn_id: str) -> str:
    """The connection as Airflow's JSON, with its password. Raises BadArguments if Airflow has none of that id."""
    try:
        found: str = BaseHook.get_connection(conn_id).as_json()
    except AirflowNotFoundException:
        raise BadArguments(
            f"there is no connection {conn_id} in Airflow, nor in DAGENGINE_CONNECTION_…:"
            f" add it in Airflow, or set AIRFLOW_CONN_{conn_id.upper()}."
        ) from None
    return found


def engine_maker(conn_id: str, described_as: str) -> Callable[[], Any]:
    """What makes an engine of SQLAlchemy's for the connection, by the hook that Airflow has for its type.

    Raises BadArguments if the connection's provider is not installed, or its hook speaks no SQL.
    """
    connection = Connection.from_json(described_as, conn_id=conn_id)
    try:
        hook: Any = connection.get_hook()
    except Exception as error:
        raise BadArguments(
            f"the connection {conn_id} is of type {connection.conn_type!r}, whose hook can't be had here:"
            f" {describe(error)[:300]}. Install its provider where steps run."
        ) from None
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise BadArguments(
            f"the connection {conn_id} is of type {connection.conn_type!r}, whose hook {type(hook).__name__} speaks no SQL."
        )
    # A worker is no Airflow task, and nobody there would answer the hook when it looks its connection up. Nor would anybody
    # mask the password in the URL that hooks log at level DEBUG, in what becomes the log of the step.
    hook.get_connection = lambda _: connection
    hook._log = _QUIET
    return cast("Callable[[], Any]", hook.get_sqlalchemy_engine)
