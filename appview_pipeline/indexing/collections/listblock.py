"""`app.bsky.graph.listblock`: an account blocks everybody on a list. Effects: sql/apply/listblock.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.store.effects import NaturalKey, Stage

STAGE = Stage("stage_listblock", ("uri", "cid", "creator", "rev", "subject_uri", "created_at", "indexed_at"))


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_listblock"].append(
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
    "app.bsky.graph.listblock",
    name="listblock",
    table="list_block",
    stages=(STAGE,),
    stage=stage,
    natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
    misses=("list",),
)
