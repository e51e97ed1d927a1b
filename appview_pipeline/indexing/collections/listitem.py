"""`app.bsky.graph.listitem`: an account is on a list. Effects: sql/apply/listitem.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows, Stage
from appview_pipeline.indexing.record_fields import at_uri_host, created_at

STAGE = Stage("stage_listitem", ("uri", "cid", "creator", "rev", "subject_did", "list_uri", "created_at", "indexed_at"))


def check(write: RecordWrite) -> str | None:
    """Only the owner of a list puts accounts on it."""
    list_uri = write.record["list"]
    if at_uri_host(list_uri) != write.did:
        return f"{write.collection}: the item's repository does not own the list {list_uri}"
    return None


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_listitem"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.rev,
            write.record["subject"],
            write.record["list"],
            created_at(write.record),
            write.indexed_at,
        )
    )


COLLECTION = Collection("app.bsky.graph.listitem", (STAGE,), stage, check)
