"""`app.bsky.labeler.service`: an account labels, by the record `self` alone. Effects: sql/apply/labeler.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.store.effects import Stage

STAGE = Stage("stage_labeler", ("uri", "cid", "creator", "created_at", "indexed_at"))


def stage(write: RecordWrite, rows: Rows) -> None:
    if write.rkey == "self":
        rows["stage_labeler"].append((write.uri, write.cid, write.did, created_at(write.record), write.indexed_at))


COLLECTION = Collection(
    "app.bsky.labeler.service",
    name="labeler",
    table="labeler",
    stages=(STAGE,),
    stage=stage,
    account_rows=None,
)
