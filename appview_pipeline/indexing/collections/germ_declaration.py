"""`com.germnetwork.declaration`: an account's end-to-end encrypted messages. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("com.germnetwork.declaration", name="germ_declaration")
