"""The options of `run` and `resume` by which one says what this machine lends to the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagengine.config import MACHINE, without_password

if TYPE_CHECKING:
    from dagengine.config import Settings

Function = TypeVar("Function", bound=Callable[..., Any])


def machine_options(function: Function) -> Function:
    """Arrive as `workers`, and as a keyword for each name in `config.MACHINE`; not given: None."""
    options = [
        click.option("-w", "--workers", type=int, metavar="N", help="Worker processes, instead of one for each CPU."),
        click.option("--memory", metavar="SIZE", help="For tasks that say how much they need, e.g. 16GiB."),
        click.option("--object-memory", metavar="SIZE", help="The most that values in memory may take. They spill."),
        click.option("--spill", metavar="FOLDER|URL", multiple=True, callback=_some, help="Where they spill to."),
        click.option(
            "--room-timeout", metavar="TIME", help="How long steps wait for room when nothing can be spilled."
        ),
        click.option("--gpus", type=int, metavar="N", help="GPUs to lend, instead of those that NVML finds."),
        click.option("--gpu-memory", metavar="SIZE", help="Memory of each of these, e.g. 24GiB."),
        click.option(
            "--resource", "resources", metavar="NAME=AMOUNT", multiple=True, callback=_some, help="A named resource."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _some(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    return list(value) or None


def secret_environment(settings: Settings) -> dict[str, str]:
    """What holds a password or key, as variables of a process: its words can be read by everybody on the machine."""
    environment = {"DAGENGINE_STORE": settings.store.value}
    if _is_secret(settings.artifacts.value):
        environment["DAGENGINE_ARTIFACTS"] = settings.artifacts.value
    if any(map(_is_secret, settings.spill.value)):
        environment["DAGENGINE_SPILL"] = ",".join(settings.spill.value)
    return environment


def _is_secret(url: str) -> bool:
    return without_password(url) != url


def machine_words(settings: Settings) -> list[str]:
    """What was said of the artifacts and of the machine, as words of a command line, but for secrets."""
    secret = secret_environment(settings)
    words = [] if "DAGENGINE_ARTIFACTS" in secret else ["--artifacts", settings.artifacts.value]
    words += ["--workers", str(settings.workers.value)]
    for name in MACHINE:
        setting = getattr(settings, name)
        if setting.origin == "default" or f"DAGENGINE_{name.upper()}" in secret:
            continue
        option = "--" + name.removesuffix("s" if name == "resources" else "").replace("_", "-")
        values = setting.value if isinstance(setting.value, tuple) else (setting.value,)
        for value in values:
            words += [option, f"{value[0]}={value[1]:g}" if isinstance(value, tuple) else str(value)]
    return words
