"""From a URL to a store on a server: what is refused, each with a line of its own, and never with a password."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest

from dagengine.config import without_password
from dagengine.errors import StoreError, StoreForeign, StoreNewer, StoreOutdated, StoreUnavailable
from dagengine.storage import open_store, postgres_connections, upgrade
from dagengine.storage.postgres_url import parse, with_connect_timeout
from dagengine.storage.revisions import CURRENT
from tests.postgres.server import Server, fresh_schema, shared


class Passing(threading.Event):
    """In the place of what the store waits with: to wait is to let the clock go on."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock[0] += timeout
        return self.is_set()


def refusal(url: str) -> str:
    """The one line that opening it ends with."""
    with pytest.raises(StoreError) as caught:
        open_store(url)
    text = f"{caught.value} {caught.value.store}"
    assert "\n" not in text
    assert "s3cret" not in text
    return str(caught.value)


@pytest.fixture(scope="module")
def listening() -> Iterator[Server]:
    """A server on a port, with a user that needs a password, and one without rights."""
    with socket.socket() as reserved:
        # Nobody is given a port that is bound; the server may take it, too, as nothing listens and both say so.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        server = Server(reserved.getsockname()[1])
        try:
            server.start()
            server.run("CREATE ROLE needs_password LOGIN PASSWORD 's3cret'")
            server.run("CREATE ROLE nobody_special LOGIN")
            server.run("CREATE DATABASE closed")
            server.run("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
            yield server
        finally:
            server.remove()


def test_each_way_not_to_get_in_has_its_line(listening: Server) -> None:
    """Host, port, password, user, database, right to connect, right to make tables: no two are told alike."""
    at = f"127.0.0.1:{listening.port}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        told = {
            "no host of that name": refusal("postgresql://tester:s3cret@no-such-host.invalid/runs"),
            "the port is closed": refusal(f"postgresql://tester:s3cret@127.0.0.1:{closed}/runs"),
        }
    told |= {
        "user or the password is wrong": refusal(f"postgresql://needs_password:s3cret2@{at}/postgres"),
        "no such user": refusal(f"postgresql://unknown:s3cret@{at}/postgres"),
        "no such database": refusal(f"postgresql://tester:s3cret@{at}/unknown"),
        "no right to connect": refusal(f"postgresql://nobody_special:s3cret@{at}/closed"),
        "CREATE SCHEMA": refusal(f"postgresql://nobody_special:s3cret@{at}/postgres"),
        "no server's socket": refusal("postgresql://tester:s3cret@/runs?host=/nowhere"),
    }
    for words, text in told.items():
        assert words in text
    assert len(set(told.values())) == len(told)


def test_who_may_not_use_the_tables_is_told_which_right_is_missing(listening: Server) -> None:
    """Somebody else has made the store: to look into it, or at rows only to read, is not enough."""
    schema = fresh_schema()
    open_store(listening.url(schema)).close()
    url = listening.url(schema, user="nobody_special")
    for right in ("", f"GRANT USAGE ON SCHEMA {schema} TO nobody_special"):
        if right:
            listening.run(right)
        told = refusal(url)
        assert "permission denied for " in told
        assert told.endswith(f"Give it USAGE on schema {schema} and all rights on its tables and sequences")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql:s3cret", "it has no //"),
        ("postgresql://me:s3cret@host:port/runs", "write @ : / ? as"),
        ("postgresql://me:a/s3cret@host/runs", "host and port are none|a slash or an @"),
        ("postgresql://me:s3cret@host/a/b", "a slash or an @"),
        ("postgresql://me:s3cret@host/runs?schema=s3cret;drop", "`schema` is not a name"),
        ("postgresql://me:s3cret@host/runs?schema=pg_s3cret", "`schema` is not a name"),
        ("postgresql://me@host/runs?lease=s3cret", "`lease` is not a number"),
        ("postgresql://me@host/runs?lease=0", "`lease` is not a number"),
        ("postgresql://me@/runs?s3cret=1", "a parameter that libpq does not know"),
    ],
)
def test_a_url_that_can_t_be_meant_is_not_repeated(url: str, said: str) -> None:
    """Who mistypes a URL may have put the password anywhere in it."""
    text = refusal(url)
    assert any(part in text for part in said.split("|")), text


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'dagengine[postgres]'" in refusal("postgresql://me:s3cret@host/runs")


def test_a_shown_url_has_no_secrets() -> None:
    """User, host, database and schema; neither password nor what else was said."""
    target = parse("postgresql://me:s3cret@db:5433,[::1]:5434/runs?schema=nightly&sslpassword=s3cret&lease=5")
    assert target.url == "postgresql://me@db:5433,[::1]:5434/runs?schema=nightly"
    assert target.libpq["password"] == target.libpq["sslpassword"] == "s3cret"
    assert (target.schema, target.lease) == ("nightly", 5.0)


def test_settings_show_no_password() -> None:
    """Neither before the host nor among the parameters."""
    for url in ("postgresql://me:s3cret@db/runs", "postgresql://me@db/runs?password=s3cret&sslpassword=s3cret&lease=5"):
        shown = without_password(url)
        assert "s3cret" not in shown
        assert shown.startswith("postgresql://me")


def test_how_long_to_wait_is_said_in_the_url() -> None:
    """`--connect-timeout` ends up there, instead of what was there, and in no other kind of URL."""
    assert with_connect_timeout("postgresql://db/runs", 5) == "postgresql://db/runs?connect_timeout=5"
    assert (
        with_connect_timeout("postgresql://db/runs?connect_timeout=9&schema=x", 5)
        == "postgresql://db/runs?schema=x&connect_timeout=5"
    )
    assert with_connect_timeout("/home/me/runs.db", 5) == "/home/me/runs.db"


def test_somebody_else_s_tables_are_not_touched() -> None:
    """A schema with other tables, also of the same names, is refused; a database with others beside ours is not."""
    schema = fresh_schema()
    shared().run(f"CREATE SCHEMA {schema}")
    shared().run(f"CREATE TABLE {schema}.run (id text)")
    with pytest.raises(StoreForeign, match="another application"):
        open_store(shared().url(schema))
    with pytest.raises(StoreForeign):
        upgrade(shared().url(schema))
    assert shared().run(f"SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'") == [(1,)]


def test_an_empty_schema_is_filled() -> None:
    """Which an administrator may have made for a user without the right to."""
    schema = fresh_schema()
    shared().run(f"CREATE SCHEMA {schema}")
    open_store(shared().url(schema)).close()
    assert upgrade(shared().url(schema)) == (CURRENT, CURRENT)


def test_other_revisions_are_told_apart() -> None:
    """An older store is to be upgraded, a newer one needs a newer dagengine."""
    schema = fresh_schema()
    open_store(shared().url(schema)).close()
    shared().run(f"UPDATE {schema}.alembic_version SET version_num = '0001'")
    with pytest.raises(StoreOutdated, match="dagengine db upgrade"):
        open_store(shared().url(schema))
    shared().run(f"UPDATE {schema}.alembic_version SET version_num = '9999'")
    with pytest.raises(StoreNewer, match="use a newer dagengine"):
        open_store(shared().url(schema))


def schema_of(schema: str) -> list[tuple[object, ...]]:
    """Every column, index and comment, without the schema's name."""
    columns = shared().run(
        "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, collation_name, "
        f"replace(column_default, '{schema}', '') FROM information_schema.columns WHERE table_schema = '{schema}'"
    )
    indexes = shared().run(f"SELECT replace(indexdef, '{schema}', '') FROM pg_indexes WHERE schemaname = '{schema}'")
    comment = shared().run(f"SELECT obj_description('{schema}.run'::regclass, 'pg_class')")
    return [*sorted(columns, key=str), *sorted(indexes), *comment]


def test_a_new_store_and_an_upgraded_one_have_the_same_tables() -> None:
    """Whichever way they came to be; and what the revisions made can be opened."""
    made, upgraded = fresh_schema(), fresh_schema()
    open_store(shared().url(made)).close()
    assert upgrade(shared().url(upgraded)) == ("empty", CURRENT)
    assert schema_of(upgraded) == schema_of(made)
    open_store(shared().url(upgraded)).close()


def test_an_unavailable_store_is_an_error_of_the_store() -> None:
    """Whatever the reason, the command line ends with 5."""
    with pytest.raises(StoreUnavailable) as caught:
        open_store("postgresql://me@/runs?host=/nowhere")
    assert caught.value.exit_status == 5


def test_an_attempt_is_given_no_more_time_than_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that swallows packets: four seconds are four, and not the ten of an attempt of which nothing was said."""
    clock = [0.0]
    given: list[int] = []

    def swallowed(**words: str) -> None:
        given.append(int(words["connect_timeout"]))
        clock[0] += given[-1]
        raise psycopg.OperationalError("timeout expired")

    monkeypatch.setattr(postgres_connections, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(postgres_connections, "threading", SimpleNamespace(Event=lambda: Passing(clock)))
    monkeypatch.setattr(psycopg, "connect", swallowed)
    for seconds, attempts in ((4, [4]), (0, [10]), (15, [10, 5]), (1, [2])):
        clock[0] = 0.0
        given.clear()
        with pytest.raises(StoreUnavailable, match="it does not answer"):
            postgres_connections.connect(parse(f"postgresql://db/runs?connect_timeout={seconds}"))
        assert given == attempts, seconds
