"""`app.bsky.notification.declaration`: who may subscribe to an account's posts. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection
from appview_pipeline.store.effects import History

COLLECTION = Collection(
    "app.bsky.notification.declaration",
    name="notification_declaration",
    decides_on_posts=True,
    history=History(body=True),
)
