"""Which database a name means: a URL from the environment, or a connection of Airflow's, through the hook of its provider.

    DAGENGINE_CONNECTION_WAREHOUSE is set        its URL, for `connection="warehouse"` and for `conn_id="warehouse"`
    conn_id, and Airflow is installed            what Airflow knows under that id:
        in the step's own process                AIRFLOW_CONN_WAREHOUSE
        else in the engine's process             whatever Airflow knows there: inside an Airflow task its supervisor is
                                                 asked, so that connections of the metadata database are found, too

Only names are recorded. What a name means, with its password, is looked up by the attempt that needs it, and travels from
the engine's process to the worker on the worker's own socket, never in its environment.

Airflow is met by way of `dagengine.airflow_plugin.connections`, which is imported by its name when a connection is asked
for: this layer does not know it. May import errors, functions, the runtime's way to whoever submitted.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import TYPE_CHECKING, Any, Final, cast

from dagengine.errors import BadArguments
from dagengine.functions import describe
from dagengine.runtime import owner

if TYPE_CHECKING:
    from dagengine.storage.external_sql import Database

VARIABLE: Final = "DAGENGINE_CONNECTION_"
AIRFLOW_VARIABLE: Final = "AIRFLOW_CONN_"

_AIRFLOW: Final = "dagengine.airflow_plugin.connections"
_ID: Final = re.compile(r"[\w.\-]{1,250}", re.ASCII)


def checked_id(conn_id: object) -> str:
    """Raises BadArguments for what can't be the id of a connection in Airflow."""
    if not isinstance(conn_id, str) or _ID.fullmatch(conn_id) is None:
        raise BadArguments(f"conn_id={conn_id!r:.100} has to be the id of a connection: letters, digits, and _ . -")
    return conn_id


def variable_of(name: str) -> str:
    """The environment variable that has the URL: `DAGENGINE_CONNECTION_MY_DB` for `my-db`."""
    return VARIABLE + re.sub(r"\W", "_", name).upper()


def database(name: str, *, airflow: bool) -> Database:
    """What `storage.external_sql` takes for the database of that name. airflow: whether it is an id of Airflow's, too.

    Raises BadArguments if nobody knows it.
    """
    found = os.environ.get(variable_of(name))
    if found is not None:
        return found
    if not airflow:
        raise BadArguments(f"there is no connection {name}: set {variable_of(name)} to the database's URL.")
    if AIRFLOW_VARIABLE + name.upper() not in os.environ and owner.within():
        described = cast(str, owner.ask({"about": "connection", "conn_id": name}))
    else:
        described = described_by_airflow(name)
    return cast("Database", _plugin(name).engine_maker(name, described))


def described_by_airflow(conn_id: str) -> str:
    """What Airflow knows in this process of a connection, as JSON with its password: for a worker, and nobody else.

    Raises BadArguments, and nothing else: it is called for others.
    """
    try:
        return cast(str, _plugin(conn_id).described(conn_id))
    except BadArguments:
        raise
    except Exception as error:
        raise BadArguments(f"Airflow can't say what the connection {conn_id} is: {describe(error)[:500]}") from None


def _plugin(conn_id: str) -> Any:
    try:
        return importlib.import_module(_AIRFLOW)
    except ImportError:
        raise BadArguments(
            f"there is no connection {conn_id}: set {variable_of(conn_id)} to the database's URL"
            " (Airflow, whose connections are asked for otherwise, is not installed here)."
        ) from None
