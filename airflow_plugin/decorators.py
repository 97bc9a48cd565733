"""`@task.dagengine`: a TaskFlow function whose body is a workflow's: the tasks that it calls are steps of a run.

    @task.dagengine
    def train(year: int) -> float:
        rows = extract.map(range(12))      # `extract` and `fit` are dagengine's tasks
        return fit(rows, year)

No other process finds such a function by a name: it is defined in the function of a DAG, or its name means Airflow's task. So
it is recorded by value, and its modules are packed with the run as always (docs/decisions/0024). A `@workflow` that can be
imported is found by its name: `task.dagengine(nightly)(year=2013)`.

Imports Airflow's SDK; of ours, when a DAG is parsed, no more than `operators` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from dagengine.airflow_plugin.operators import DagengineOperator
from dagengine.errors import BadArguments

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import TaskDecorator
    from airflow.sdk.definitions.context import Context

    from dagengine.workflows import Workflow


class DagengineDecoratedOperator(DecoratedOperator, DagengineOperator):
    """A `DagengineOperator` whose workflow is the decorated function, and whose arguments are those of its call.

    A parameter that has the name of one of Airflow's variables, `ds` or `logical_date`, and no argument, is given that.
    """

    template_fields: Sequence[str] = ("op_args", "op_kwargs", "store", "conn_id", "run_queue")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_args": "py", "op_kwargs": "py"}
    custom_operator_name = "@task.dagengine"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            kwargs_to_upstream={"workflow": python_callable.__name__},
            **kwargs,
        )

    def _call(self, context: Context) -> tuple[str | Workflow[..., Any], tuple[Any, ...], dict[str, Any]]:
        workflow = as_workflow(self.python_callable)
        args = tuple(self._resolved(value) for value in self.op_args)
        given = {name: self._resolved(value) for name, value in self.op_kwargs.items()}
        asked = inspect.signature(self.python_callable).bind_partial(*args, **given)
        for name, parameter in asked.signature.parameters.items():
            named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if named and name not in asked.arguments and name in context:
                given[name] = _plain(name, context[name])  # type: ignore[literal-required]
        return workflow, args, given


def as_workflow(function: Callable[..., Any]) -> Workflow[..., Any]:
    """The workflow that a decorated function, or workflow, is. Raises BadArguments for a name that no workflow can have."""
    from dagengine.functions import named_by_itself, stand_for
    from dagengine.workflows import Workflow

    if isinstance(function, Workflow):
        if named_by_itself(function):
            return function
        made = Workflow(function.function, function.name, function.timeout, function.compensate)
    else:
        made = Workflow(function)
    if "<locals>" not in made.__qualname__:
        made.__qualname__ = (
            f"<locals>.{made.__qualname__}"  # else its name would be looked up, which means Airflow's task
        )
    stand_for(made)
    return made


def _plain(name: str, value: Any) -> Any:
    """One of Airflow's variables as an argument that can be recorded. Raises BadArguments."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, datetime):
        return datetime.fromisoformat(value.isoformat())  # without the class of a library that Airflow happens to use
    raise BadArguments(
        f"{name} is an object of Airflow's, which can't be recorded with a run. Take what you need of it in a task before,"
        " and pass that."
    )


def dagengine_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """`@task.dagengine`, or `@task.dagengine(where="serve", …)` with what `DagengineOperator` takes."""
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=DagengineDecoratedOperator,
        **kwargs,
    )
