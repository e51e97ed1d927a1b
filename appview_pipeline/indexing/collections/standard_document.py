"""`site.standard.document`: an article or other document of a publication. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("site.standard.document", name="standard_document")
