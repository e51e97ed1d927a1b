"""`app.bsky.actor.contentVisibilityDeclaration`: whether an account's content may be recommended by algorithms.

Kept in `bsky.record` alone.
"""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("app.bsky.actor.contentVisibilityDeclaration", name="content_visibility")
