"""`app.bsky.notification.declaration`: who may subscribe to an account's posts. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("app.bsky.notification.declaration")
