"""What an Airflow connection says of a store, field by field. Needs no Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from dagengine.airflow_plugin.addresses import Address, address_of
from dagengine.errors import BadOption
from dagengine.storage.postgres_url import parse


@pytest.mark.parametrize(
    ("fields", "store"),
    [
        ({}, None),
        ({"host": "/srv/runs.db"}, "/srv/runs.db"),
        ({"host": "~/runs/"}, "~/runs/"),
        ({"host": " ./runs.db "}, "./runs.db"),
        ({"extra": {"store": "sqlite:////srv/runs.db"}}, "sqlite:////srv/runs.db"),
        ({"host": "db.example", "schema": "runs"}, "postgresql://db.example/runs"),
        ({"host": "db", "schema": "runs", "login": "me", "port": 5433}, "postgresql://me@db:5433/runs"),
        ({"host": "::1", "schema": "runs", "port": 5433}, "postgresql://[::1]:5433/runs"),
        ({"host": "/run/postgresql", "schema": "runs"}, "postgresql://%2Frun%2Fpostgresql/runs"),
        (
            {"host": "db", "schema": "runs", "extra": {"schema_name": "nightly", "sslmode": "require", "other": 1}},
            "postgresql://db/runs?schema=nightly&sslmode=require",
        ),
    ],
)
def test_a_connection_names_a_store(fields: dict[str, Any], store: str | None) -> None:
    """By a path, a URL, or the fields of a PostgreSQL server; by nothing, it is the configured one."""
    assert address_of(**fields).store == store


@pytest.mark.parametrize("secret", ["a:b@c/d?e#f", "ü %20 +", "plain"])
def test_names_and_passwords_arrive_as_they_were_typed(secret: str) -> None:
    """Whatever characters they have."""
    address = address_of(host="db", schema="a/b@c", login="me@here", password=secret)
    assert address.store is not None
    target = parse(address.store)
    assert (target.libpq["user"], target.libpq["password"]) == ("me@here", secret)
    assert (target.libpq["host"], target.libpq["dbname"]) == ("db", "a/b@c")


def test_a_url_may_leave_the_password_to_its_own_field() -> None:
    """There Airflow encrypts and hides it. One that the URL has stays."""
    leaves = address_of(password="p/w", extra={"store": "postgresql://me@db/runs"})
    assert leaves.store == "postgresql://me:p%2Fw@db/runs"
    has = address_of(password="other", extra={"store": "postgresql://me:own@db/runs"})
    assert has.store == "postgresql://me:own@db/runs"
    file = address_of(password="unused", extra={"store": "/srv/runs.db"})
    assert file.store == "/srv/runs.db"


def test_the_rest_of_an_address_is_in_the_extra() -> None:
    """And is given to the engine, and to the client, as far as it is said."""
    extra = {"artifacts": "s3://bucket/a", "home": "/srv/home", "python": "/opt/env/bin/python", "store": ""}
    address = address_of(host="/srv/runs.db", extra=extra)
    assert address == Address("/srv/runs.db", "s3://bucket/a", "/srv/home", "/opt/env/bin/python")
    assert address.options == {"store": "/srv/runs.db", "artifacts": "s3://bucket/a", "home": "/srv/home"}
    assert Address().options == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "db", "extra": {"store": "/srv/runs.db"}}, "both a host and an extra 'store'"),
        ({"schema": "runs"}, "no host"),
        ({"extra": {"artifacts": 7}}, "'artifacts' is not a text"),
    ],
)
def test_a_connection_that_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    """In one line, and without its password."""
    with pytest.raises(BadOption, match=said) as refused:
        address_of(**fields, password="secret")
    assert "secret" not in str(refused.value)
