"""What Alembic runs: all missing revisions, in the transaction of the connection that it is given.

There is no alembic.ini: `storage.upgrade` opens the store and passes a connection in the configuration's attributes.
Being one transaction, an upgrade that is killed has not happened.
"""

from __future__ import annotations

from alembic import context

from dagengine.storage.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
context.run_migrations()
