"""`chat.bsky.actor.declaration`: who may write to an account. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection(
    "chat.bsky.actor.declaration",
    name="chat_declaration",
    is_validated=False,  # the reference stores these as they come
)
