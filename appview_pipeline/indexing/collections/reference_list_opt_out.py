"""`app.bsky.graph.referencelistoptout`: an account asks not to be shown on a reference list.

Effects: sql/apply/reference_list_opt_out.sql. A record whose subject is no list is in `bsky.record`
alone.
"""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows, Stage
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.protocol.syntax import is_did, parse_at_uri

STAGE = Stage(
    "stage_reference_list_opt_out", ("uri", "cid", "creator", "rev", "subject_uri", "created_at", "indexed_at")
)


def stage(write: RecordWrite, rows: Rows) -> None:
    if names_list(write.record["subject"]):
        rows["stage_reference_list_opt_out"].append(
            (
                write.uri,
                write.cid,
                write.did,
                write.rev,
                write.record["subject"],
                created_at(write.record),
                write.indexed_at,
            )
        )


def names_list(uri: str) -> bool:
    """Whether a URI is exactly `at://<did>/app.bsky.graph.list/<record key>`."""
    found = parse_at_uri(uri)
    return (
        found is not None
        and is_did(found.authority)
        and found.collection == "app.bsky.graph.list"
        and found.rkey is not None
    )


COLLECTION = Collection("app.bsky.graph.referencelistoptout", (STAGE,), stage)
