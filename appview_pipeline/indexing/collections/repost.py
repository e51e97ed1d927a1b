"""`app.bsky.feed.repost`: an account shows a post to its followers. Effects: sql/apply/repost.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at, strong_ref, without_did
from appview_pipeline.store.effects import History, NaturalKey, Notifies, Stage, Step

STAGE = Stage(
    "stage_repost",
    ("uri", "cid", "creator", "rev", "subject", "subject_cid", "created_at", "indexed_at", "via", "via_cid"),
)


def check(write: RecordWrite) -> str | None:
    """What appears in feeds needs the DID of its author."""
    return without_did(write.collection, write.record["subject"]["uri"])


def stage(write: RecordWrite, rows: Rows) -> None:
    subject = write.record["subject"]
    via, via_cid = strong_ref(write.record.get("via"))
    rows["stage_repost"].append(
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
    "app.bsky.feed.repost",
    name="repost",
    table="repost",
    stages=(STAGE,),
    stage=stage,
    check=check,
    natural_key=NaturalKey(("creator", "subject"), ("creator", "subject")),
    follows=(Step("feed", writes="feed_item"), Step("count"), Step("notify")),
    under_lock=(Step("hide"),),
    history=History("sortAt", columns=("relationship", "record")),
    notifies=Notifies(("repost", "repost-via-repost"), once=True, of_posts=True),
    counters=("post_agg",),
    misses=("subject",),
    expires=True,
)
