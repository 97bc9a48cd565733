"""What a task says of its run to those who follow data: OpenLineage, where its provider is installed, and asset events.

    OpenLineage    when a task ends, the run facet `dagengine` says which run of which workflow and store it was, how it ended,
                   with how many steps in which state. Inlets and outlets are told by Airflow's own provider
    asset events   the event of each outlet carries the run's id, so that whoever is started by it finds the run
    asset URIs     dagengine://CONNECTION/WORKFLOW: what the runs of a workflow make, for outlets and schedules

Imports nothing of Airflow's, and OpenLineage only when it asks. Of ours it may import the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

if TYPE_CHECKING:
    from airflow.sdk import Asset

FACET = "dagengine"
RUN_ID = "dagengine_run_id"
"""In the extra of an asset's event."""


class Traced:
    """An operator that has run `traced_run`, in what `open_client(conn_id, store, python)` opens."""

    traced_run: str | None = None
    conn_id: str | None
    store: str | None
    python: str | None = None

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        return _lineage(self._facts())

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        return _lineage(self._facts())

    def _facts(self) -> dict[str, Any]:
        """Of the run, as it is recorded; {} if there is none."""
        from dagengine.airflow_plugin.commands import CommandClient
        from dagengine.airflow_plugin.places import open_client

        if self.traced_run is None:
            return {}
        with open_client(self.conn_id, self.store, self.python) as client:
            if isinstance(client, CommandClient):  # of another environment: its store is not asked twice
                return {"run": self.traced_run}
            run = client.find(self.traced_run)
            steps: dict[str, int] = {}
            for (_, each), count in client.store.counts(run.number).items():
                steps[str(each)] = steps.get(str(each), 0) + count
            state = str(client.state(run.id))
            return {
                "run": run.id, "workflow": run.workflow, "state": state, "steps": steps, "store": client.store.url
            }  # fmt: skip


def _lineage(facts: Mapping[str, Any]) -> Any:
    import attr
    from airflow.providers.openlineage.extractors.base import OperatorLineage
    from openlineage.client.facet_v2 import RunFacet

    @attr.define
    class DagengineRunFacet(RunFacet):  # type: ignore[misc]
        run: str
        workflow: str = ""
        state: str = ""
        steps: dict[str, int] = attr.field(factory=dict)
        store: str = ""

    return OperatorLineage(run_facets={FACET: DagengineRunFacet(**facts)} if facts else {})


# ---- assets -----------------------------------------------------------------------------------


def note_run(outlets: Any, events: Any, run_id: str) -> None:
    """Have the events of the task's assets say which run has made them."""
    from airflow.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            events[outlet].extra[RUN_ID] = run_id


def create_asset(*, workflow: str, conn_id: str = "dagengine_default", extra: dict[str, Any] | None = None) -> Asset:
    """The asset that the runs of a workflow make, in the store of a connection."""
    from airflow.sdk import Asset

    return Asset(uri=f"dagengine://{conn_id}/{workflow}", extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """One way to write each URI. Raises ValueError for one that names no connection or no workflow."""
    workflow = uri.path.strip("/")
    if not uri.netloc or "@" in uri.netloc or not workflow:
        raise ValueError("an asset of dagengine is dagengine://CONNECTION/WORKFLOW")
    return uri._replace(path=f"/{workflow}", query="", fragment="")


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Any:
    """The asset as OpenLineage's dataset."""
    from urllib.parse import urlsplit

    from openlineage.client.event_v2 import Dataset

    uri = urlsplit(asset.uri)
    return Dataset(namespace=f"dagengine://{uri.netloc}", name=uri.path.strip("/"))
