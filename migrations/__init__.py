"""The store's schema, revision by revision. Driven by `storage.upgrade`, which gives `env.py` its connection.

A revision is small, and says in one sentence why it is there. The last one's number is `storage.revisions.CURRENT`.
"""
