"""Opening the store, and the artifacts beside it, to change something. What is only looked at opens `Invocation.reading`.

May import what verbs may: the workflow layer, inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import ArtifactStore, Store


@contextmanager
def writing(settings: Settings, *, hints: bool = False) -> Iterator[Store]:
    """The store; made if it is not there. `hints`: servers look at it when the change is made."""
    from dagengine.config import create_private
    from dagengine.storage import open_store

    create_private(settings.folder)
    store = open_store(settings.store.value)
    try:
        yield store
        if hints:
            from dagengine.serving.hints import hint

            hint(store, settings.control)
    finally:
        store.close()


@contextmanager
def writing_values(settings: Settings) -> Iterator[tuple[Store, ArtifactStore]]:
    """The store, made if it is not there, and the artifacts."""
    from dagengine.storage import open_artifacts

    with writing(settings) as store:
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            yield store, artifacts
        finally:
            artifacts.close()
