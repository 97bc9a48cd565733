"""What Airflow is told about this provider, when any of its processes starts.

Imports nothing: Airflow calls it in every process, and imports the classes that it names when they are used.
"""

from __future__ import annotations

from typing import Any

NAME = "dagengine"
HERE = "dagengine.airflow_plugin"

_TEXT = {"type": ["string", "null"]}


def get_provider_info() -> dict[str, Any]:
    """The provider's description (Airflow's `provider_info.schema.json`)."""
    return {
        "package-name": "dagengine",  # has to be the distribution's name
        "name": NAME,
        "description": "Durable workflows: run, follow, resume and cancel them from DAGs.",
        "integrations": [{"integration-name": NAME, "external-doc-url": "", "tags": ["software"]}],
        "hooks": [{"integration-name": NAME, "python-modules": [f"{HERE}.hook"]}],
        "operators": [{"integration-name": NAME, "python-modules": [f"{HERE}.operators"]}],
        "sensors": [{"integration-name": NAME, "python-modules": [f"{HERE}.sensors"]}],
        "triggers": [{"integration-name": NAME, "python-modules": [f"{HERE}.triggers"]}],
        "asset-uris": [
            {
                "schemes": ["dagengine"],
                "handler": f"{HERE}.lineage.sanitize_uri",
                "factory": f"{HERE}.lineage.create_asset",
                "to_openlineage_converter": f"{HERE}.lineage.convert_asset_to_openlineage",
            }
        ],
        "task-decorators": [{"name": NAME, "class-name": f"{HERE}.decorators.dagengine_task"}],
        "connection-types": [
            {
                "connection-type": "dagengine",
                "hook-class-name": f"{HERE}.hook.DagengineHook",
                "hook-name": NAME,
                "conn-fields": CONNECTION_FIELDS,
                "ui-field-behaviour": CONNECTION_FORM,
            }
        ],
        "extra-links": [f"{HERE}.links.RunLink"],
        "config": {
            "dagengine": {
                "description": "What operators of dagengine do unless they say otherwise.",
                "options": {
                    "ui_url": {
                        "description": (
                            "The address of a run's page in your dashboard, with {run_id} where the id goes. Each task"
                            " that has a run then links to it. Empty: no links."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "https://runs.example/runs/{run_id}",
                        "default": "",
                    }
                },
            }
        },
    }


CONNECTION_FIELDS = {
    "store": {
        "label": "Store",
        "description": "Path of a SQLite file, or URL of a PostgreSQL store. Instead of the host.",
        "schema": _TEXT,
    },
    "schema_name": {
        "label": "Schema of the tables",
        "description": "On PostgreSQL; dagengine, if it is empty.",
        "schema": _TEXT,
    },
    "artifacts": {
        "label": "Artifacts",
        "description": "Folder or fsspec URL of large values. Beside the store, or in the home, if it is empty.",
        "schema": _TEXT,
    },
    "home": {
        "label": "Home",
        "description": "Folder of settings and logs where tasks run. ~/.dagengine, if it is empty.",
        "schema": _TEXT,
    },
    "python": {
        "label": "Python",
        "description": "Interpreter of another environment that has the engine and the workflows.",
        "schema": _TEXT,
    },
}
"""Kept in the connection's extra (airflow_plugin/addresses.py)."""

CONNECTION_FORM = {
    "hidden-fields": [],
    "relabeling": {"schema": "Database", "host": "Host, or path of a SQLite file"},
    "placeholders": {"host": "db.example, or /srv/dagengine/store.db", "port": "5432"},
}
