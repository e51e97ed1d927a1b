"""`site.standard.theme.basic`: the colours of a publication. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("site.standard.theme.basic", name="standard_theme")
