"""`app.bsky.feed.like`: an account likes a post, a feed generator, a labeler. Effects: sql/apply/like.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at, strong_ref
from appview_pipeline.store.effects import History, NaturalKey, Notifies, Stage, Step

STAGE = Stage(
    "stage_like",
    ("uri", "cid", "creator", "rev", "subject", "subject_cid", "created_at", "indexed_at", "via", "via_cid"),
)


def stage(write: RecordWrite, rows: Rows) -> None:
    subject = write.record["subject"]
    via, via_cid = strong_ref(write.record.get("via"))
    rows["stage_like"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.rev,
            subject["uri"],
            subject["cid"],
            created_at(write.record),
            write.indexed_at,
            via,
            via_cid,
        )
    )


COLLECTION = Collection(
    "app.bsky.feed.like",
    name="like",
    table="like",
    stages=(STAGE,),
    stage=stage,
    natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    follows=(Step("count"), Step("notify")),
    history=History("sortAt", columns=("relationship", "record")),
    notifies=Notifies(("like", "like-via-repost"), once=True, of_posts=True),
    counters=("post_agg",),
    expires=True,
)
