"""`app.bsky.feed.postgate`: who may quote a post, and where it is not shown. Effects: sql/apply/postgate.sql."""

from __future__ import annotations

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at, gates_its_own_post
from appview_pipeline.store.effects import History, Stage, Step

STAGE = Stage("stage_postgate", ("uri", "cid", "creator", "post_uri", "created_at", "indexed_at"))


def check(write: RecordWrite) -> str | None:
    return gates_its_own_post(write.collection, write.record["post"], write.did, write.rkey)


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_postgate"].append(
        (write.uri, write.cid, write.did, write.record["post"], created_at(write.record), write.indexed_at)
    )


COLLECTION = Collection(
    "app.bsky.feed.postgate",
    name="postgate",
    table="post_gate",
    stages=(STAGE,),
    stage=stage,
    check=check,
    follows=(Step("flag"),),
    always=(Step("unflag"),),
    decides_on_posts=True,
    history=History(body=True),
    expires=True,
    account_rows=None,
)
