"""The link from an Airflow task to the page of its run, in the dashboard that `[dagengine] ui_url` names.

Without that setting operators have no link. With it, the link is pushed to XCom when the run is known, so that it works while
the task runs; when the task ends Airflow asks for it again, and stores the answer under the same key.

May import Airflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from collections.abc import Collection

RUN_KEY = "dagengine_run_id"
"""XCom key of the run's id."""

URL_KEY = "dagengine_run_url"
"""XCom key of the link."""


def run_url(run_id: str) -> str | None:
    """The page of the run; None if no dashboard is configured.

    `[dagengine] ui_url` has {run_id} where the id goes; without that, /runs/ID is added to it.
    """
    base = _configured()
    if base is None:
        return None
    name = quote(run_id, safe="")
    return base.replace("{run_id}", name) if "{run_id}" in base else f"{base.rstrip('/')}/runs/{name}"


def _configured() -> str | None:
    found: str | None = conf.get("dagengine", "ui_url", fallback=None)
    found = (found or "").strip()
    return found if found.startswith(("http://", "https://")) else None


class RunLink(BaseOperatorLink):
    """The button on the task's page."""

    @property
    def name(self) -> str:
        return "dagengine run"

    @property
    def xcom_key(self) -> str:
        return URL_KEY

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The link, or an empty text, which is shown as no link: for a task that ended before it had a run."""
        from airflow.sdk.execution_time.xcom import XCom

        run_id = XCom.get_value(ti_key=ti_key, key=RUN_KEY)
        return (run_url(run_id) or "") if isinstance(run_id, str) else ""


def run_links() -> Collection[BaseOperatorLink]:
    """`operator_extra_links` of operators that have a run."""
    return (RunLink(),) if _configured() is not None else ()
