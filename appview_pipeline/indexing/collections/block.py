"""`app.bsky.graph.block`: an account blocks another. Effects: sql/apply/block.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.store.effects import NaturalKey, Stage

STAGE = Stage("stage_block", ("uri", "cid", "creator", "rev", "subject_did", "created_at", "indexed_at"))


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_block"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.rev,
            write.record["subject"],
            created_at(write.record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.graph.block",
    name="block",
    table="actor_block",
    stages=(STAGE,),
    stage=stage,
    natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
)
