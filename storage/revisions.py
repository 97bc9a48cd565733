"""Which schemas there are, and how a database of ours is known: all that opening a store needs to know of migrations.

Apart from the schema and from Alembic, because importing those costs more than opening a store.
`tests/migrations/` holds this list against the revisions in `migrations/versions/`. Imports nothing.
"""

from __future__ import annotations

APPLICATION_ID = 0x64616765
"""SQLite's `PRAGMA application_id`: "dage" in ASCII. It tells our databases from everybody else's."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""All schema revisions, oldest first. The last one is what this code reads and writes."""

CURRENT = REVISIONS[-1]
