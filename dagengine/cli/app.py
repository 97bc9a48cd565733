"""The verbs, and what all of them share: options, settings, the store.

A verb is a module of this package with a click command named `command`. The table below names it with its one line, so that
`dagengine --help` loads none of them.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagengine import __version__
from dagengine.units import short_id
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.model import RunRecord
    from dagengine.storage.interface import Store

Function = TypeVar("Function", bound=Callable[..., Any])

short = short_id

VERBS: dict[str, dict[str, str]] = {
    "Run": {
        "run": "Run a workflow, and follow it to its end.",
        "resume": "Go on with a run that has not succeeded; finished steps are not repeated.",
        "wait": "Wait until a run has ended.",
        "cancel": "Ask runs to stop.",
        "test": "Kill a workflow at every write, and see that it makes no difference.",
        "signal": "Send something to a run that waits for it.",
        "approve": "Say yes to what a run asks approval for.",
        "reject": "Say no to what a run asks approval for.",
    },
    "Change": {
        "fork": "Begin a new run that shares what a change does not reach.",
        "rerun": "Begin a new run with the arguments of another one.",
        "retry": "Try failed steps of a run again, and go on.",
        "mark": "Decide how a step ends that has not succeeded.",
        "pause": "Stop a run until `unpause`.",
        "unpause": "Let a paused run go on.",
    },
    "Serve": {
        "serve": "Work on submitted, scheduled and waiting runs, until it is stopped.",
        "submit": "Leave a run to `dagengine serve`.",
        "queue": "Look at queues, and set their limits.",
        "schedule": "Have runs begin by the clock.",
        "backfill": "Begin the runs that a schedule would have begun in the past.",
        "airflow": "Write a workflow as the file of an Airflow DAG.",
    },
    "Look": {
        "ls": "List runs, the newest first.",
        "show": "Show a run: its state, tasks, failures.",
        "steps": "List the steps of a run.",
        "graph": "Draw the graph of a run.",
        "lineage": "Trace what a step was made from, and what was made from it.",
        "logs": "Print what the steps of a run have printed.",
        "result": "Print the result of a run, or of one step.",
        "errors": "Show what failed in a run, and where.",
        "explain": "Say why a step ran, waits, or was skipped.",
        "diff": "Show what differs between two runs.",
        "profile": "Show where the time of a run went.",
        "timeline": "Draw when the steps of a run ran.",
        "debug": "Call a step again, here, in a debugger.",
        "recompute": "Make values again whose bytes are missing or damaged.",
        "code": "Look at the code that runs were started with.",
        "replay": "See whether a run would go on with today's code, without running anything.",
    },
    "Store and machine": {
        "cache": "Look at the values that runs share, and remove them.",
        "gc": "Collect what nobody needs any more: old runs, old values, artifacts without a row.",
        "rm": "Remove runs, with all that is recorded of them.",
        "pin": "Keep runs, and their values, from being collected.",
        "unpin": "Let pinned runs be collected, as any other.",
        "export": "Write a run with its values to a file.",
        "import": "Bring a run from a file into the store.",
        "db": "Check the store, or bring it up to date.",
        "doctor": "Look at this machine and the settings, and say what to fix.",
        "version": "Print the version.",
        "completion": "Print the completion script of a shell.",
    },
}


ALIASES = {"clear": "rerun", "reset": "fork", "rewind": "fork"}
"""Words that other tools have for our verbs."""


@dataclass(slots=True)
class Invocation:
    """What the options that every verb takes have said."""

    store: str | None = None
    connect_timeout: float | None = None
    json: bool = False
    debug: bool = False

    def settings(self, **arguments: Any) -> Settings:
        from dagengine.config import load

        settings = load(store=self.store, **arguments)
        if self.connect_timeout is not None:
            from dagengine.storage.postgres_url import with_connect_timeout

            store = replace(settings.store, value=with_connect_timeout(settings.store.value, self.connect_timeout))
            settings = replace(settings, store=store)
        return settings

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """The store, to look something up. One that is not there is not created, but stood in for by an empty one."""
        from dagengine.config import store_path, without_password
        from dagengine.storage import open_existing, open_store

        store = self.settings().store.value
        unborn = store_path(store) is not None and self._home_is_new()
        opened = None if unborn else open_existing(store)
        if opened is None:
            opened = open_store("memory:")
            opened.url = without_password(store)  # what it says that it does not have, the named one does not have
        try:
            yield opened
        finally:
            opened.close()

    def _home_is_new(self) -> bool:
        """Whether the default store's own folder is not there yet: nothing was run so far."""
        settings = self.settings()
        return settings.store.origin == "default" and not settings.home.value.exists()


class VerbGroup(click.Group):
    """Loads a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in VERBS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in self.list_commands(ctx):
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = importlib.import_module(f"dagengine.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if ".py" in name:
                raise click.UsageError(f"{name!r} is not a verb. Did you mean `dagengine run {name}`?")
            raise click.UsageError(f"there is no verb {name!r}.{did_you_mean(name, self._meant(ctx), many=99)}")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context) -> list[str]:
        """Verbs that a mistyped one may have been. Not the one that removes: `rum` is `run`."""
        return [name for name in self.list_commands(ctx) if name != "rm"]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.list_commands(ctx))
        for section, verbs in VERBS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in verbs.items()])


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            setattr(ctx.ensure_object(Invocation), name, value)

    return callback


def common(function: Function) -> Function:
    """The options of every verb. They may stand before the verb, too."""
    function = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_keep("debug"), help="Show our tracebacks, too."
    )(function)
    function = click.option(
        "--json", is_flag=True, expose_value=False, callback=_keep("json"), help="Print one JSON object."
    )(function)
    function = click.option(
        "--connect-timeout",
        type=click.FloatRange(0, 86_400),
        metavar="SECONDS",
        expose_value=False,
        callback=_keep("connect_timeout"),
        help="Wait so long for a store's server that is down.",
    )(function)
    return click.option(
        "--store",
        metavar="PATH|URL",
        expose_value=False,
        callback=_keep("store"),
        help="The store of runs, instead of the one in DAGENGINE_STORE or ~/.dagengine.",
    )(function)


def complete_run(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of recent runs, for the shell. Whatever is wrong is told by the command itself, not here."""
    from dagengine.storage.interface import RunFilter

    try:
        invocation = ctx.find_object(Invocation) or Invocation()
        with invocation.reading() as store:
            ids = [run.id for run in store.runs(RunFilter(limit=50))]
    except Exception:
        return []
    return [run_id for run_id in [*ids, "@last"] if run_id.startswith(incomplete)]


def run_argument(function: Function) -> Function:
    return click.argument("run", metavar="RUN", shell_complete=complete_run)(function)


def find_run(store: Store, name: str) -> RunRecord:
    """The run of that id, unique prefix of an id, or `@last`. Raises RunNotFound."""
    from dagengine.errors import RunNotFound
    from dagengine.storage.interface import RunFilter

    if not name.strip():
        raise click.UsageError("the run's id is empty. Give an id, its beginning, or @last.")
    if name == "@last":
        newest = store.runs(RunFilter(limit=1))
        if not newest:
            raise RunNotFound("there are no runs yet. `dagengine run FILE.py:WORKFLOW` makes one.", run_id=name)
        return newest[0]
    if not name.isprintable():
        raise RunNotFound(f"there is no run {name!r}. `dagengine ls` lists them.", run_id=name)
    if name.startswith("@"):
        raise click.UsageError(f"{name!r} is not a run. Did you mean @last?")
    return store.find_run(name)


@click.group(
    cls=VerbGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="RUN is an id, its unique beginning, or @last. Exit status: 0 succeeded, 1 the run failed, 2 misuse, "
    "3 not found, 4 in conflict, 5 store unavailable.",
)
@common
@click.version_option(__version__, message="dagengine %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Durable workflows: killed at any moment, resumed from the command line."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
