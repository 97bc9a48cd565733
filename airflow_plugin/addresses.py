"""From an Airflow connection to a store: pure, so that it is tested without Airflow.

    extra.store                    this path or URL; a PostgreSQL URL may leave the password to the connection's own field
    host with a slash, no schema   a SQLite file, or a folder with store.db
    host                           PostgreSQL: host, port, schema (the database), login, password; extra.schema_name
    none of these                  the store that dagengine's own settings name where the task runs

May import nothing of ours but errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from dagengine.errors import BadOption

EXTRAS = ("store", "artifacts", "home", "schema_name", "python")
"""What the connection's extra may say to us."""

LIBPQ = ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "target_session_attrs", "application_name")
"""What it may say to the driver."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where runs are. `store` may hold a password. `python`: the interpreter of the environment that has the engine."""

    store: str | None = None
    artifacts: str | None = None
    home: str | None = None
    python: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """As keyword arguments of `Engine` and `Client`; what is not said is left out."""
        said = {"store": self.store, "artifacts": self.artifacts, "home": self.home}
        return {name: text for name, text in said.items() if text is not None}


def address_of(
    *,
    host: str | None = None,
    schema: str | None = None,
    login: str | None = None,
    password: str | None = None,
    port: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Address:
    """The address that a connection with these fields says. Raises BadOption."""
    extra = {} if extra is None else extra
    said: dict[str, str] = {}
    for name in EXTRAS:
        value = extra.get(name)
        if value is not None and not isinstance(value, str):
            raise BadOption(f"the connection's extra {name!r} is not a text. Give a path, a URL or a name.")
        if value and value.strip():
            said[name] = value.strip()
    schema_name = said.pop("schema_name", None)
    store = said.pop("store", None)
    host = (host or "").strip()
    if store is not None:
        if host:
            raise BadOption("the connection says both a host and an extra 'store'. Say one of them.")
        store = _with_password(store, password)
    elif "/" in host and not schema:
        store = host
    elif host:
        who = _who(login, password)
        store = f"postgresql://{who}{_place(host, port)}/{quote(schema or '', safe='')}{_query(schema_name, extra)}"
    elif schema or login or port:
        raise BadOption("the connection says a database, login or port, and no host. Give the server's name.")
    return Address(store, said.get("artifacts"), said.get("home"), said.get("python"))


def _with_password(store: str, password: str | None) -> str:
    scheme, found, rest = store.partition("://")
    if not password or not found or not scheme.lower().startswith("postgres"):
        return store
    netloc, slash, path = rest.partition("/")
    user, at, place = netloc.rpartition("@")
    if not at or ":" in user:
        return store
    return f"{scheme}://{user}:{quote(password, safe='')}@{place}{slash}{path}"


def _who(login: str | None, password: str | None) -> str:
    who = quote(login or "", safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"{who}@" if who else ""


def _place(host: str, port: int | None) -> str:
    name = quote(host, safe="") if "/" in host else f"[{host}]" if host.count(":") > 1 else host
    return f"{name}:{port}" if port else name


def _query(schema_name: str | None, extra: Mapping[str, Any]) -> str:
    words = {"schema": schema_name} if schema_name else {}
    words |= {name: str(extra[name]) for name in LIBPQ if extra.get(name) not in (None, "")}
    return f"?{urlencode(words, quote_via=quote)}" if words else ""
