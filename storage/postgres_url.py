"""What a `postgresql:` URL says: where the server is, and how we use it. A password in it is shown to nobody.

    postgresql://me:secret@db.example:5432/runs?schema=nightly&sslmode=require

Ours among the parameters, all with defaults: `schema`, `lease`, `connect_timeout`, `patience`. All others are libpq's.
An error never repeats a part of the URL: who mistypes one may well have put the password where we look for the host.

May import nothing of ours but errors.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from dagengine.errors import StoreUnsupported

SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
DEFAULT_SCHEMA = "dagengine"
DEFAULT_LEASE = 10.0
"""Seconds for which a process owns its runs without saying that it lives. It says so three times as often."""

DEFAULT_PATIENCE = 120.0
"""Seconds for which a server that has gone is waited for. Longer than a restart or a failover; then the runs are let go
of, and can be resumed."""

LONGEST = 86_400.0

_SCHEMA = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,62}")
_FORM = "postgresql://user:password@host:port/database?schema=name"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Target:
    """`libpq`: what the driver is given. `url`: without secrets, for people."""

    libpq: dict[str, str]
    schema: str
    lease: float
    connect_timeout: float
    patience: float
    url: str

    def copied_by(self, file: str) -> str:
        """The command that copies the store to a file while others work with it. Whoever types it gives the password."""
        plain = {name: text for name, text in self.libpq.items() if name not in ("password", "sslpassword")}
        words = " ".join(f"{name}='{text}'" if " " in text else f"{name}={text}" for name, text in plain.items())
        return shlex.join(["pg_dump", "--format=custom", f"--schema={self.schema}", f"--file={file}", words])

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self.libpq[name] for name in ("password", "sslpassword") if self.libpq.get(name))


def is_postgres(url: str) -> bool:
    return url.partition(":")[0].lower() in SCHEMES


def with_connect_timeout(url: str, seconds: float) -> str:
    """The URL, saying how long the server is waited for; any other kind of URL as it is."""
    if not is_postgres(url):
        return url
    kept = re.sub(r"(?<=[?&])connect_timeout=[^&]*&?", "", url)
    return f"{kept}{'' if kept[-1] in '?&' else '&' if '?' in kept else '?'}connect_timeout={seconds:g}"


def parse(url: str) -> Target:
    """Raises StoreUnsupported."""
    _, _, rest = url.partition(":")
    if not rest.startswith("//"):
        raise _misread("it has no //")
    place, _, query = rest[2:].partition("?")
    netloc, _, database = place.partition("/")
    user_and_password, at, hosts = netloc.rpartition("@")
    libpq: dict[str, str] = {}
    if at:
        user, colon, password = user_and_password.partition(":")
        libpq["user"] = unquote(user)
        if colon:
            libpq["password"] = unquote(password)
    if hosts:
        libpq |= _hosts(hosts)
    if "/" in database or "@" in database:
        raise _misread("the database's name has a slash or an @ in it; write them as %2F and %40")
    if database:
        libpq["dbname"] = unquote(database)
    given = dict(parse_qsl(query, keep_blank_values=True))
    schema = given.pop("schema", DEFAULT_SCHEMA)
    if not _SCHEMA.fullmatch(schema):
        raise _misread("`schema` is not a name of letters, digits and underscores")
    lease = _seconds(given, "lease", DEFAULT_LEASE, least=1.0)
    connect_timeout = _seconds(given, "connect_timeout", 0.0)
    patience = _seconds(given, "patience", DEFAULT_PATIENCE)
    libpq |= given
    return Target(libpq, schema, lease, connect_timeout, patience, _shown(libpq, schema))


def _hosts(text: str) -> dict[str, str]:
    names, ports = [], []
    for part in text.split(","):
        found = _HOST.fullmatch(part)
        if found is None:
            raise _misread("its host and port are none; in user and password write @ : / ? as %40 %3A %2F %3F")
        names.append(unquote(found[1]).strip("[]"))
        ports.append(found[2] or "")
    return {"host": ",".join(names)} | ({"port": ",".join(ports)} if any(ports) else {})


def _seconds(given: dict[str, str], name: str, default: float, least: float = 0.0) -> float:
    text = given.pop(name, None)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= LONGEST:
        raise _misread(f"`{name}` is not a number of seconds from {least:g} to {LONGEST:g}")
    return seconds


def _shown(libpq: dict[str, str], schema: str) -> str:
    user = quote(libpq["user"]) + "@" if libpq.get("user") else ""
    names, ports = libpq.get("host", "").split(","), libpq.get("port", "").split(",")
    hosts = ",".join(
        ("" if name.startswith("/") else f"[{name}]" if ":" in name else name)
        + (f":{ports[index if len(ports) > 1 else 0]}" if any(ports) and not name.startswith("/") else "")
        for index, name in enumerate(names)
    )
    words = [f"host={name}" for name in names if name.startswith("/")]
    if words and any(ports):
        words.append(f"port={ports[0]}")
    if schema != DEFAULT_SCHEMA:
        words.append(f"schema={schema}")
    return f"postgresql://{user}{hosts}/{quote(libpq.get('dbname', ''))}" + ("?" + "&".join(words) if words else "")


def _misread(why: str) -> StoreUnsupported:
    return StoreUnsupported(f"the URL of the store can't be understood: {why}. It is {_FORM}", store="postgresql:")
