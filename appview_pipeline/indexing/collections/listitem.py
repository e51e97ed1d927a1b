"""`app.bsky.graph.listitem`: an account is on a list. Effects: sql/apply/listitem.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import at_uri_host, created_at
from appview_pipeline.store.effects import History, NaturalKey, Stage

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


COLLECTION = Collection(
    "app.bsky.graph.listitem",
    name="listitem",
    table="list_item",
    stages=(STAGE,),
    stage=stage,
    check=check,
    natural_key=NaturalKey(("listUri", "subjectDid"), ("list_uri", "subject_did")),
    decides_on_posts=True,
    history=History(columns=("relationship",)),
    misses=("list",),
)
