"""`site.standard.graph.recommend`: an account recommends a document. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("site.standard.graph.recommend", name="standard_recommend")
