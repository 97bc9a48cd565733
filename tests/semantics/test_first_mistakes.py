"""What newcomers do first, and what they are told: one line, with what to do instead."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagengine import Engine, RunFailed, gather, get, stateful, task, workflow
from dagengine.cli.summary import failure_lines
from dagengine.errors import READ_ONLY, BadArguments, DefinitionError, LoadError
from dagengine.functions import load_file
from dagengine.model import Failure
from dagengine.runtime.failures import describe_failure


@task
def one() -> int:
    return 1


class Shop:
    @task
    def price(self, name: str) -> int:
        return len(name)


@stateful
class Counter:
    def count(self) -> int:
        return 1


class Louder(Counter):
    pass


@task
def silent() -> None:
    raise KeyboardInterrupt


@task
def zeros() -> Any:
    return np.zeros(10_000)


@task
def write_into(values: Any) -> None:
    values += 1


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: gather(one(), one()), r"gather\(\[a, b\]\)"),  # type: ignore[call-overload]
        (lambda: Shop().price("tea"), "A task is no method: pass the object as an argument"),  # type: ignore[call-arg,arg-type]
        (lambda: Louder().count(), "Louder derives from Counter.*decorate it with @stateful, too"),
    ],
)
def test_a_mistake_in_a_body_is_told_with_what_to_do(engine: Engine, mistake: Callable[[], Any], told: str) -> None:
    @workflow
    def body() -> Any:
        return mistake()

    with pytest.raises(RunFailed, match=told) as failed:
        engine.start(body).result()
    assert isinstance(failed.value.__cause__, DefinitionError)


def test_a_plain_subclass_of_a_stateful_class_can_be_used_elsewhere() -> None:
    assert Louder().count() == 1


def test_a_generator_is_no_task() -> None:
    def pages() -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="return a list"):
        task(pages)


def test_whatever_can_be_called_can_be_a_task() -> None:
    assert task(functools.partial(pow, 2))(3) == 8
    assert task(name="square")(functools.partial(pow, exp=2)).name == "square"
    with pytest.raises(BadArguments):
        task(len).check_arguments((), {})


def test_the_line_of_a_failure_ends_once(engine: Engine) -> None:
    """It said `KeyboardInterrupt: . To go on`, and `gather([a, b]).. To go on`."""

    @workflow
    def body() -> Any:
        return silent()

    with pytest.raises(RunFailed, match=r"KeyboardInterrupt\. To go on: dagengine resume"):
        engine.start(body).result()
    long = Failure("error", "ValueError", "x" * 5_000 + "\nand more")
    assert long.line() == "ValueError: " + "x" * 499 + "…"


def test_writing_into_a_value_says_to_take_a_copy(engine: Engine) -> None:
    @workflow
    def body() -> Any:
        values = zeros()
        get(values)[0] = 1.0

    with pytest.raises(RunFailed) as failed:
        engine.start(body).result()
    assert READ_ONLY in getattr(failed.value.__cause__, "__notes__", ())
    assert failure_lines(describe_failure(failed.value.__cause__))[-1] == READ_ONLY  # type: ignore[arg-type]


def test_a_summary_shows_the_users_line_above_those_of_a_library() -> None:
    """A failure deep in pandas showed twelve lines of pandas, and not the user's one that called it."""
    own = ['  File "/home/me/etl.py", line 3, in load\n', "    frame.loc[0] = 1\n"]
    deep = [
        line
        for number in range(20)
        for line in (f'  File "/venv/lib/python3.12/site-packages/pandas/core.py", line {number}, in f\n', "    f()\n")
    ]
    failure = Failure("error", "ValueError", "no", "".join(["Traceback:\n", *own, *deep, "ValueError: no\n"]))
    shown = [line.strip() for line in failure_lines(failure)]
    assert shown[1:4] == ['File "/home/me/etl.py", line 3, in load', "frame.loc[0] = 1", "…"]
    assert "line 19," in shown[-2]
    assert len(shown) <= 14


def test_a_file_of_a_package_is_to_be_named_as_a_module(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "reports"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "yearly_report_of_a_shop.py").write_text("from . import other\n")
    with pytest.raises(LoadError) as failed:
        load_file(str(folder / "yearly_report_of_a_shop.py"))
    told = f"Name it as a module, in the folder {tmp_path}: shop.reports.yearly_report_of_a_shop"
    assert str(failed.value).endswith(told)
