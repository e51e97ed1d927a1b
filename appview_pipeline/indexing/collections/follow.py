"""`app.bsky.graph.follow`: an account follows another. Effects: sql/apply/follow.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.store.effects import History, NaturalKey, Notifies, Stage, Step

STAGE = Stage("stage_follow", ("uri", "cid", "creator", "rev", "subject_did", "created_at", "indexed_at"))


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_follow"].append(
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
    "app.bsky.graph.follow",
    name="follow",
    table="follow",
    stages=(STAGE,),
    stage=stage,
    natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
    follows=(Step("count"), Step("notify")),
    decides_on_posts=True,
    history=History("sortAt", columns=("relationship", "record")),
    notifies=Notifies(("follow",), once=True),
    counters=("profile_agg",),
)
