"""Recorded values, for people and for programs. The only place of the command line that decodes one.

Decoding runs the code of whoever wrote the value's class, so only verbs that were asked for a value come here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import math
import pprint
import sys
import uuid
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dagengine.cli.terminal import clean_block, is_terminal, width
from dagengine.model import RunRecord, StepRecord

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import ArtifactStore, Store

TEXT_LIMIT = 4_000
"""Characters of a result that are printed for people. `--json` and `--full` print all of it."""

DEPTH_LIMIT = 200


class NoJson(ValueError):
    """The value, or the part of it at `path`, has no JSON form."""

    def __init__(self, path: str, value: Any) -> None:
        super().__init__(f"{path or 'it'} is of type {type(value).__qualname__}, which has no JSON form")


def read_result(store: Store, settings: Settings, run: RunRecord) -> Any:
    """What the run returned. Raises a failed input's own exception, or LoadError if this code can't read it."""
    from dagengine import results

    with _artifacts(settings) as artifacts:
        return results.read_result(store, artifacts, run)


def read_step(store: Store, settings: Settings, run: RunRecord, step: StepRecord) -> Any:
    """The value of a step that succeeded."""
    from dagengine import results

    with _artifacts(settings) as artifacts:
        return results.read_step(store, artifacts, run, step)


@contextlib.contextmanager
def _artifacts(settings: Settings) -> Iterator[ArtifactStore]:
    from dagengine.storage import open_artifacts

    artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
    try:
        yield artifacts
    finally:
        artifacts.close()


def shown(value: Any, limit: int | None = TEXT_LIMIT) -> str:
    """The value as text, of `limit` characters at most; on a terminal one that is too wide in several lines."""
    try:
        text = value if isinstance(value, str) else repr(value)
        if width() < len(text) <= TEXT_LIMIT and is_terminal(sys.stdout) and not isinstance(value, str):
            text = pprint.pformat(value, width=width(), sort_dicts=False)
    except Exception as error:
        text = f"<{type(value).__qualname__}; its repr raised {type(error).__name__}>"
    text = clean_block(text)
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters)"
    return text


def as_json(value: Any, path: str = "", depth: int = 0) -> Any:
    """The value in what JSON knows. Raises NoJson, which names the part that has no such form."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return int(value) if type(value) not in (bool, int, str, type(None)) and isinstance(value, int) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NoJson(path, value)
        return float(value)
    if depth > DEPTH_LIMIT:
        raise NoJson(path, value)
    if isinstance(value, enum.Enum):
        return as_json(value.value, path, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: as_json(getattr(value, name), f"{path}.{name}", depth + 1) for name in names}
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields is not None:
        return {name: as_json(getattr(value, name), f"{path}.{name}", depth + 1) for name in fields}
    if isinstance(value, dict):
        return {_key(key, path): as_json(item, f"{path}[{key!r:.40}]", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        items = [as_json(item, f"{path} element", depth + 1) for item in value]
        return sorted(items, key=lambda item: (str(type(item)), str(item)))
    if isinstance(value, (PurePath, uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    to_list = getattr(value, "tolist", None)
    if type(value).__module__.partition(".")[0] == "numpy" and to_list is not None:
        return as_json(to_list(), path, depth + 1)
    raise NoJson(path, value)


def _key(key: Any, path: str) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, bool) or not isinstance(key, (str, int, float)):
        raise NoJson(f"{path} key {key!r:.40}", key)
    return str(key)
