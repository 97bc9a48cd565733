"""A workflow as the file of an Airflow DAG, for those who want its graph in Airflow's own pages. Works without Airflow.

    mirror    one task runs the workflow; the others follow its steps, and do nothing (export_mirror)
    expand    each step is an Airflow task, and Airflow says when it runs (export_expand)

The file is for people: it names what it uses, holds no data but what the workflow was called with, and is the same for the
same workflow. What the steps are comes from `dagengine.outline`.

Imports no Airflow; may import the workflow layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.export_expand import expanded
from dagengine.airflow_plugin.export_file import Exported, Wanted
from dagengine.airflow_plugin.export_mirror import mirrored
from dagengine.errors import BadArguments

if TYPE_CHECKING:
    from dagengine.outline import Outline
    from dagengine.workflows import Workflow

MODES = ("mirror", "expand")

_ID = re.compile(r"[\w.-]{1,240}", re.ASCII)


def export(
    workflow: Workflow[..., Any],
    given: Mapping[str, Any],
    wanted: Wanted,
    mode: str = "mirror",
    recorded: Outline | None = None,
) -> Exported:
    """The DAG of a workflow. given: arguments by name; recorded: instead of what the body calls now, what a run has called.

    Raises BadArguments if the steps depend on an argument that is not given, or on one that no file can hold;
    DefinitionError if the body raises, or, for `expand`, if the graph is not known before it runs.
    """
    if wanted.dag_id is not None and _ID.fullmatch(wanted.dag_id) is None:
        raise BadArguments(f"{wanted.dag_id!r:.100} is no id for a DAG: use letters, digits, and _ . -")
    if mode == "expand":
        if recorded is not None:
            raise BadArguments("what one run has called is not what the next one will: expand takes no run.")
        return expanded(workflow, given, wanted)
    return mirrored(workflow, given, wanted, recorded)
