"""The record on disk: a store of runs, and the artifacts beside it. Everything is reached from here.

The front imports no database library, so that a process which opens no store does not pay for one.
"""

from dagengine.storage.interface import ArtifactStore, RunFilter, Store
from dagengine.storage.opening import open_artifacts, open_existing, open_store, upgrade

__all__ = ["ArtifactStore", "RunFilter", "Store", "open_artifacts", "open_existing", "open_store", "upgrade"]
