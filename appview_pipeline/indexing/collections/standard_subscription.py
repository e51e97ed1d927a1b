"""`site.standard.graph.subscription`: an account subscribes to a publication. Kept in `bsky.record` alone."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection

COLLECTION = Collection("site.standard.graph.subscription", name="standard_subscription")
