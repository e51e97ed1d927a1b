"""`app.bsky.graph.starterpack`: accounts and feeds to begin with. Effects: sql/apply/starterpack.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at, without_did
from appview_pipeline.store.effects import Stage

STAGE = Stage("stage_starterpack", ("uri", "cid", "creator", "name", "list", "created_at", "indexed_at"))


def check(write: RecordWrite) -> str | None:
    """The pack's page needs the DIDs of its list and feeds."""
    feeds = write.record.get("feeds") or ()
    return without_did(write.collection, write.record["list"], *(feed["uri"] for feed in feeds))


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_starterpack"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.record["name"],
            write.record["list"],
            created_at(write.record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.graph.starterpack",
    name="starterpack",
    table="starter_pack",
    stages=(STAGE,),
    stage=stage,
    check=check,
    misses=("list",),
)
