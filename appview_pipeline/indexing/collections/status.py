"""`app.bsky.actor.status`: what an account is doing now. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("app.bsky.actor.status", name="status")
