"""`app.bsky.graph.referencelistoptout`: an account asks not to be shown on a reference list.

Effects: sql/apply/reference_list_opt_out.sql. A record whose subject is no list is in `bsky.record`
alone.
"""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.collections.list import COLLECTION as LIST
from appview_pipeline.indexing.record_fields import created_at
from appview_pipeline.protocol.syntax import is_did, parse_at_uri
from appview_pipeline.store.effects import NaturalKey, Stage

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
    """Whether a URI is exactly that of a list: `at://<did>/<collection of lists>/<record key>`."""
    found = parse_at_uri(uri)
    return found is not None and is_did(found.authority) and found.collection == LIST.nsid and found.rkey is not None


COLLECTION = Collection(
    "app.bsky.graph.referencelistoptout",
    name="reference_list_opt_out",
    table="reference_list_opt_out",
    stages=(STAGE,),
    stage=stage,
    natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
)
