"""`app.bsky.feed.like`: an account likes a post, a feed generator, a labeler. Effects: sql/apply/like.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows, Stage
from appview_pipeline.indexing.record_fields import created_at, strong_ref

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


COLLECTION = Collection("app.bsky.feed.like", (STAGE,), stage)
