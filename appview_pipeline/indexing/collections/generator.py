"""`app.bsky.feed.generator`: a custom feed. Effects: sql/apply/generator.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import blob_cid, created_at, json_or_none
from appview_pipeline.store.effects import Stage

STAGE = Stage(
    "stage_generator",
    (
        "uri",
        "cid",
        "creator",
        "feed_did",
        "display_name",
        "description",
        "description_facets",
        "avatar_cid",
        "created_at",
        "indexed_at",
    ),
)


def stage(write: RecordWrite, rows: Rows) -> None:
    record = write.record
    rows["stage_generator"].append(
        (
            write.uri,
            write.cid,
            write.did,
            record["did"],
            record["displayName"],
            record.get("description"),
            json_or_none(record.get("descriptionFacets")),
            blob_cid(record.get("avatar")),
            created_at(record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.feed.generator",
    name="generator",
    table="feed_generator",
    stages=(STAGE,),
    stage=stage,
)
