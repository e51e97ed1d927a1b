"""`app.bsky.feed.threadgate`: who may reply to a post. Effects: sql/apply/threadgate.sql."""

from __future__ import annotations

from typing import Any

from appview_pipeline.indexing.collection import Collection, RecordWrite, Rows
from appview_pipeline.indexing.record_fields import created_at, gates_its_own_post, json_or_none, without_did
from appview_pipeline.store.effects import History, Stage, Step

STAGE = Stage("stage_threadgate", ("uri", "cid", "creator", "post_uri", "lists", "created_at", "indexed_at"))


def check(write: RecordWrite) -> str | None:
    """An author gates only posts of their own, and pages with the post need the DIDs of the lists that may reply."""
    refusal = gates_its_own_post(write.collection, write.record["post"], write.did, write.rkey)
    return refusal or without_did(write.collection, *_lists(write.record))


def _lists(record: dict[str, Any]) -> list[str]:
    """The lists whose members may reply."""
    rules = record.get("allow") or ()
    return [rule["list"] for rule in rules if rule["$type"] == "app.bsky.feed.threadgate#listRule"]


def stage(write: RecordWrite, rows: Rows) -> None:
    rows["stage_threadgate"].append(
        (
            write.uri,
            write.cid,
            write.did,
            write.record["post"],
            json_or_none(_lists(write.record) or None),
            created_at(write.record),
            write.indexed_at,
        )
    )


COLLECTION = Collection(
    "app.bsky.feed.threadgate",
    name="threadgate",
    table="thread_gate",
    stages=(STAGE,),
    stage=stage,
    check=check,
    follows=(Step("flag"),),
    always=(Step("unflag"),),
    decides_on_posts=True,
    history=History(body=True),
    misses=("list",),
    expires=True,
    account_rows=None,
)
