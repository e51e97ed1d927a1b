"""`app.bsky.graph.list`: a list of accounts. Effects: sql/apply/list.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import blob_cid, created_at, json_or_none
from appview_pipeline.store.effects import Stage

STAGE = Stage(
    "stage_list",
    (
        "uri",
        "cid",
        "creator",
        "name",
        "purpose",
        "description",
        "description_facets",
        "avatar_cid",
        "created_at",
        "indexed_at",
    ),
)


def stage(write: RecordWrite, rows: Rows) -> None:
    record = write.record
    rows["stage_list"].append(
        (
            write.uri,
            write.cid,
            write.did,
            record["name"],
            record["purpose"],
            record.get("description"),
            json_or_none(record.get("descriptionFacets")),
            blob_cid(record.get("avatar")),
            created_at(record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.graph.list",
    name="list",
    table="list",
    stages=(STAGE,),
    stage=stage,
)
