"""`app.bsky.graph.verification`: an account vouches for another's name. Effects: sql/apply/verification.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.store.effects import History, NaturalKey, Notifies, Stage, Step

STAGE = Stage(
    "stage_verification",
    ("uri", "cid", "creator", "rev", "rkey", "subject", "handle", "display_name", "created_at", "indexed_at"),
)


def stage(write: RecordWrite, rows: Rows) -> None:
    record = write.record
    rows["stage_verification"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.rev,
            write.rkey,
            record["subject"],
            record["handle"],
            record["displayName"],
            created_at(record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.graph.verification",
    name="verification",
    table="verification",
    stages=(STAGE,),
    stage=stage,
    always=(Step("notify"),),
    natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    history=History("sortedAt", columns=("relationship", "record")),
    notifies=Notifies(("verified", "unverified"), stays=True),
    account_rows=None,
)
