"""What Airflow is told about this provider, when any of its processes starts.

Imports nothing: Airflow calls it in every process, and imports the classes that it names when they are used.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description (Airflow's `provider_info.schema.json`)."""
    return {
        "package-name": "dagengine",  # has to be the distribution's name
        "name": "dagengine",
        "description": "Durable workflows: run, follow, resume and cancel them from DAGs.",
    }
