"""`com.atproto.lexicon.schema`: a Lexicon document, published by the account that owns its name.

Kept in `bsky.record` alone.
"""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("com.atproto.lexicon.schema", name="lexicon_schema")
