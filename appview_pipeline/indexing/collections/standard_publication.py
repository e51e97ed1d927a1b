"""`site.standard.publication`: a publication: where its documents are and how it presents itself.

Kept in `bsky.record` alone.
"""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("site.standard.publication", name="standard_publication")
