"""`DagengineHook`: a store of runs as an Airflow connection. For SQL, it is one of common-sql's hooks, and only reads.

What a connection says is `addresses.py`. May import Airflow and, when it is used, the client; never the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.sql.hooks.sql import DbApiHook

from dagengine.airflow_plugin.addresses import Address, address_of
from dagengine.errors import BadArguments, BadOption, DagengineError, StoreUnavailable

if TYPE_CHECKING:
    from dagengine.client import Client
    from dagengine.model import RunState

TEST_SECONDS = 0.1
"""For a server that refuses the Test button to change its mind: a person waits. One that is silent is given ten."""


class DagengineHook(DbApiHook):  # type: ignore[misc]
    """Runs of the store that the connection names: submit, look at, cancel, resume; and SQL on the store's tables.

    store: a path or URL, instead of a connection
    """

    conn_name_attr = "dagengine_conn_id"
    default_conn_name = "dagengine_default"
    conn_type = "dagengine"
    hook_name = "dagengine"

    def __init__(
        self, dagengine_conn_id: str = default_conn_name, *, store: str | Path | None = None, **options: Any
    ) -> None:
        super().__init__(dagengine_conn_id, **options)
        self._store = None if store is None else str(store)
        self._client: Client | None = None

    # ---- where ------------------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether Airflow has such a connection."""
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            return self.connection is not None
        except AirflowNotFoundException:
            return False

    @property
    def address(self) -> Address:
        """Where the runs are, as the connection says it.

        Raises BadOption, also if there is no connection; StoreUnavailable, if it may only be that it can't be had now.
        """
        if self._store is not None:
            return Address(self._store)
        if not self.is_there():
            raise _no_connection(self.get_conn_id())
        said = self.connection
        address = address_of(
            host=said.host,
            schema=said.schema,
            login=said.login,
            password=said.password,
            port=said.port,
            extra=said.extra_dejson,
        )
        _mask(address.store)
        return address

    def store_options(self) -> dict[str, Any]:
        """As keyword arguments of `dagengine.Engine` and `dagengine.Client`. `store` may hold a password."""
        return self.address.options

    def _here(self) -> Client:
        """A client in this environment; nothing is opened."""
        from dagengine.client import Client

        return Client(**self.address.options)

    # ---- runs -------------------------------------------------------------------------------------

    def client(self) -> Client:
        """A client of the store, for the caller to close. Of another environment, if the connection names its `python`."""
        address = self.address
        if address.python is not None:
            from dagengine.airflow_plugin.commands import CommandClient

            return cast("Client", CommandClient(address.python, **address.options))  # it has what is used of one
        return self._here()

    def _runs(self) -> Client:
        if self._client is None:
            self._client = self.client()
        return self._client

    def close(self) -> None:
        """Let go of the store. The hook opens it again when it is used again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> DagengineHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(
        self,
        workflow: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        queue: str = "default",
        priority: int = 0,
        run_id: str | None = None,
    ) -> str:
        """Leave a run of "FILE.py:NAME" or "package.module:NAME" to `dagengine serve`, and return its id.

        Raises LoadError, BadArguments, BadOption; RunExists, if `run_id` is taken.
        """
        from dagengine.serving.submission import Submission

        how = Submission(queue, priority, run_id=run_id)
        return self._runs().submit(workflow, (), dict(arguments or {}), how=how)

    def state(self, run_id: str) -> RunState:
        """Raises RunNotFound."""
        return self._runs().state(run_id)

    def states(self, run_ids: Iterable[str]) -> dict[str, RunState]:
        """Of many runs, with one question; those that are not there are left out."""
        return self._runs().states(run_ids)

    def result(self, run_id: str) -> Any:
        """What the run returned. Raises RunFailed with the failed step's exception as its cause, and its like."""
        return self._runs().result(run_id)

    def cancel(self, run_id: str, compensate: bool = False) -> RunState:
        """Ask the run to stop. CANCELLED, RUNNING (it was asked), or how it had ended. `compensate`: undo what it did."""
        return self._runs().cancel(run_id, compensate)

    def resume(self, run_id: str, queue: str = "default") -> bool:
        """Leave a run that has not succeeded to `dagengine serve` again; False if it is under way already."""
        return self._runs().resume(run_id, queue)

    def read(self, value: Any) -> Any:
        """What an XCom of a DagengineOperator stands for: the result that it refers to, else the value itself.

        Raises what `result` raises; BadArguments for a reference that this version can't read.
        """
        from dagengine.airflow_plugin.outcomes import REFERENCE_KEY

        if not isinstance(value, dict) or REFERENCE_KEY not in value:
            return value
        run_id, conn_id, store = value.get("run"), value.get("conn_id"), value.get("store")
        if value[REFERENCE_KEY] != 1 or not isinstance(run_id, str):
            raise BadArguments(f"{value!r:.200} is no reference to a run's result that this dagengine can read.")
        here = self._store is None and conn_id == self.get_conn_id() if conn_id is not None else True
        if here and (store is None or self._is_here(store)):
            return self.result(run_id)
        with DagengineHook(conn_id) if conn_id is not None else DagengineHook(store=store) as other:
            return other.result(run_id)

    def _is_here(self, store: str) -> bool:
        from dagengine.config import without_password

        ours = self._here().settings.store.value
        return store in (ours, without_password(ours))

    # ---- SQL --------------------------------------------------------------------------------------

    @property
    def _is_postgres(self) -> bool:
        return self._here().settings.store.value.lower().startswith("postgres")

    @property
    def placeholder(self) -> str:
        return "%s" if self._is_postgres else "?"

    @property
    def supports_autocommit(self) -> bool:  # type: ignore[override]
        return self._is_postgres  # sqlite3 of Python 3.11 has no such attribute

    def get_conn(self) -> Any:
        """A connection to the store's tables that only reads: what is recorded is changed by dagengine alone."""
        return self._here().connect()

    @property
    def sqlalchemy_url(self) -> Any:
        return self._here().sqlalchemy_url()

    def get_uri(self) -> str:
        return str(self.sqlalchemy_url.render_as_string(hide_password=False))

    # ---- the Test button ----------------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:  # type: ignore[override]
        """Whether the store can be used, and what is in it, in one line. It is not made if it is not there."""
        try:
            if self.address.python is not None:
                return self._test_elsewhere()
            found = self._here().look(TEST_SECONDS)
        except DagengineError as error:
            return False, str(error)
        except Exception as error:
            return False, f"{type(error).__name__}: {error}".splitlines()[0]
        if found is None:
            return True, "There is no store yet. The first run makes it."
        return True, f"{found.url}: schema {found.revision}, {found.runs:,} run{'' if found.runs == 1 else 's'}"

    def _test_elsewhere(self) -> tuple[bool, str]:
        with self.client() as client:
            client.states(["none"])
        return True, f"The store answers through {self.address.python}."


def _no_connection(conn_id: str) -> DagengineError:
    """A retry would not find it, either, unless there is a secrets backend: Airflow takes one that fails for one that has none."""
    from airflow.sdk import conf

    said = f"there is no connection {conn_id!r} in Airflow"
    if any(conf.get(section, name, fallback="") for section, name in _SECRETS):
        text = f"{said}, or its secrets backend does not answer. Look there, or correct conn_id."
        return StoreUnavailable(text, store="")
    return BadOption(f"{said}. Add one of type dagengine, or correct conn_id.")


_SECRETS = (("secrets", "backend"), ("workers", "secrets_backend"))
"""Settings of Airflow's that name where else connections are looked for."""


def _mask(store: str | None) -> None:
    """Airflow masks the connection's password as it was typed; in a URL it is written otherwise."""
    if store is None or "@" not in store or "://" not in store:
        return
    from urllib.parse import unquote, urlsplit

    from airflow.sdk.log import mask_secret

    try:
        password = urlsplit(store).password
    except ValueError:
        return
    for secret in {password, unquote(password)} if password else ():
        mask_secret(secret)
