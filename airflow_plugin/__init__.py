"""The Airflow provider: dagengine's runs as Airflow tasks.

It translates, and holds no engine logic and no state that the store does not have. It is the only place that imports Airflow;
of ours it may import the workflow layer. A DAG file pays for what it names: each name is loaded on first use, and neither
imports the engine, SQLAlchemy or Arrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.airflow_plugin.hook import DagengineHook
    from dagengine.airflow_plugin.operators import DagengineOperator
    from dagengine.airflow_plugin.sensors import DagengineSensor
    from dagengine.airflow_plugin.triggers import DagengineTrigger

_HOME = {
    "DagengineHook": "hook",
    "DagengineOperator": "operators",
    "DagengineSensor": "sensors",
    "DagengineTrigger": "triggers",
}
"""Public name -> the module that defines it."""

__all__ = ["DagengineHook", "DagengineOperator", "DagengineSensor", "DagengineTrigger"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'dagengine.airflow_plugin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"dagengine.airflow_plugin.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
