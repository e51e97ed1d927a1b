"""`app.bsky.actor.profile`: how an account presents itself, by its record `self`. Effects: sql/apply/profile.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import blob_cid, strong_ref, without_did
from appview_pipeline.store.effects import AccountRows, Notifies, Stage, Step

STAGE = Stage(
    "stage_profile",
    (
        "uri",
        "cid",
        "creator",
        "display_name",
        "description",
        "avatar_cid",
        "banner_cid",
        "joined_via_starter_pack_uri",
        "created_at",
        "indexed_at",
    ),
)


def check(write: RecordWrite) -> str | None:
    """Pages with the profile need the DIDs of what it refers to."""
    refs = (write.record.get("pinnedPost"), write.record.get("joinedViaStarterPack"))
    return without_did(write.collection, *(ref["uri"] for ref in refs if ref is not None))


def stage(write: RecordWrite, rows: Rows) -> None:
    if write.rkey != "self":
        return
    record = write.record
    rows["stage_profile"].append(
        (
            write.uri,
            write.cid,
            write.did,
            record.get("displayName"),
            record.get("description"),
            blob_cid(record.get("avatar")),
            blob_cid(record.get("banner")),
            strong_ref(record.get("joinedViaStarterPack"))[0],
            # As the account wrote it, not normalised; a profile without a time dates from when it was indexed.
            record.get("createdAt") or write.indexed_at,
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.actor.profile",
    name="profile",
    table="profile",
    stages=(STAGE,),
    stage=stage,
    check=check,
    always=(Step("joined"),),
    notifies=Notifies(("starterpack-joined",), stays=True),
    account_rows=AccountRows(order="uri DESC"),
)
