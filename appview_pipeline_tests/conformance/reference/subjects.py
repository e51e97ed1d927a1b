"""What the reads of the data plane (reads.py) are asked about: accounts, records, handles, words of databases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from appview_pipeline_tests.support.tables import rows

POST, GENERATOR, LABELER = "app.bsky.feed.post", "app.bsky.feed.generator", "app.bsky.labeler.service"
LIST, STARTER_PACK = "app.bsky.graph.list", "app.bsky.graph.starterpack"

MAX_WORDS = 24
OPERATORS_LABELER = "did:plc:labelerlabelerlabelerla"
"""The labeler of other_state.py."""

# Every column of the reference's tables that holds a DID or an AT URI which a request can name.
_DIDS = """
SELECT did FROM bsky.actor UNION SELECT did FROM bsky.record UNION SELECT did FROM bsky.profile_agg
UNION SELECT did FROM bsky.actor_sync UNION SELECT did FROM bsky.notification UNION SELECT author FROM bsky.notification
UNION SELECT "originatorDid" FROM bsky.feed_item UNION SELECT "subjectDid" FROM bsky.follow
UNION SELECT "subjectDid" FROM bsky.actor_block UNION SELECT "subjectDid" FROM bsky.list_item
UNION SELECT subject FROM bsky.verification UNION SELECT "subjectDid" FROM bsky.mute
"""
_URIS = """
SELECT uri FROM bsky.record UNION SELECT uri FROM bsky.post_agg UNION SELECT uri FROM bsky.duplicate_record
UNION SELECT uri FROM bsky.post UNION SELECT "replyRoot" FROM bsky.post UNION SELECT "replyParent" FROM bsky.post
UNION SELECT uri FROM bsky.op_thread_reply UNION SELECT "rootUri" FROM bsky.op_thread_reply
UNION SELECT "embedUri" FROM bsky.post_embed_record UNION SELECT "postUri" FROM bsky.feed_item
UNION SELECT uri FROM bsky."like" UNION SELECT subject FROM bsky."like" UNION SELECT uri FROM bsky.repost
UNION SELECT subject FROM bsky.repost UNION SELECT uri FROM bsky.quote UNION SELECT subject FROM bsky.quote
UNION SELECT "recordUri" FROM bsky.notification UNION SELECT "reasonSubject" FROM bsky.notification
UNION SELECT "postUri" FROM bsky.thread_gate UNION SELECT "postUri" FROM bsky.post_gate
UNION SELECT uri FROM bsky.list UNION SELECT uri FROM bsky.list_item UNION SELECT "listUri" FROM bsky.list_item
UNION SELECT "subjectUri" FROM bsky.list_block UNION SELECT "subjectUri" FROM bsky.reference_list_opt_out
UNION SELECT uri FROM bsky.starter_pack UNION SELECT "joinedViaStarterPackUri" FROM bsky.profile
UNION SELECT uri FROM bsky.feed_generator UNION SELECT uri FROM bsky.verification UNION SELECT uri FROM bsky.label
"""
_TEXTS = """
SELECT text FROM bsky.post UNION SELECT "displayName" FROM bsky.feed_generator UNION SELECT name FROM bsky.starter_pack
UNION SELECT handle FROM bsky.actor
"""
_CIDS = """
SELECT did, cid FROM bsky.blob_takedown UNION SELECT creator, "avatarCid" FROM bsky.profile
UNION SELECT p.creator, i."imageCid" FROM bsky.post_embed_image i JOIN bsky.post p ON p.uri = i."postUri"
"""
# Accounts between which something is: the pairs of which it matters what the reads of pairs answer.
_PAIRS = """
SELECT creator, "subjectDid" FROM bsky.actor_block UNION SELECT creator, "subjectDid" FROM bsky.follow
UNION SELECT "mutedByDid", "subjectDid" FROM bsky.mute
UNION SELECT b.creator, i."subjectDid" FROM bsky.list_block b JOIN bsky.list_item i ON i."listUri" = b."subjectUri"
UNION SELECT m."mutedByDid", i."subjectDid" FROM bsky.list_mute m JOIN bsky.list_item i USING ("listUri")
UNION SELECT creator, split_part(subject, '/', 3) FROM bsky."like"
"""


@dataclass(frozen=True)
class Subjects:
    """What is asked about: each once, sorted.

    `actors`: DIDs. `records`: AT URIs of every collection, also of records that are gone or that others only name.
    `viewers`: the accounts as whom relations are asked. `pairs`: (viewer, other) of the reads that take one other
    account. `issuers`: labelers. `cids`: (DID, CID) of blobs.
    """

    actors: Sequence[str]
    records: Sequence[str]
    viewers: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    handles: Sequence[str] = ()
    words: Sequence[str] = ()
    issuers: Sequence[str] = ()
    cids: Sequence[tuple[str, str]] = ()
    by_collection: dict[str, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for uri in self.records:
            collection = uri.removeprefix("at://").partition("/")[2].partition("/")[0]
            self.by_collection.setdefault(collection, []).append(uri)

    def of(self, *collections: str) -> list[str]:
        """The records of these collections."""
        return [uri for collection in collections for uri in self.by_collection.get(collection, ())]

    @property
    def liked(self) -> list[str]:
        """The records that accounts like, repost or quote."""
        return self.of(POST, GENERATOR, LABELER, STARTER_PACK, LIST)


def subjects_of(
    urls: Iterable[str],
    uris: Iterable[str] = (),
    *,
    viewers: int | None = None,
    pairs: int | None = None,
    others: int | None = None,
) -> Subjects:
    """Everything that the databases name, and the accounts and the records of `uris`.

    `viewers`, `pairs`: how many at most; None: every account is a viewer, and a pair with every other. Of fewer pairs
    those come first between which something is. `others`: how many at most of the accounts that are not indexed.
    """
    urls, uris = list(urls), set(uris)
    dids = {did for did in _union(urls, _DIDS) | {uri.split("/")[2] for uri in uris} if did.startswith("did:")}
    indexed = _union(urls, "SELECT did FROM bsky.actor")
    actors = sorted(indexed.union(sorted(dids - indexed)[:others]))
    chosen = actors[:: max(1, len(actors) // viewers)][:viewers] if viewers else actors
    related = sorted({(a, b) for url in urls for a, b in rows(url, _PAIRS) if b in dids})
    handles = _union(urls, "SELECT handle FROM bsky.actor")
    words = sorted({word for text in _union(urls, _TEXTS) for word in re.findall(r"\w{2,}", text)[:2]})
    return Subjects(
        actors=actors,
        records=sorted(uri for uri in _union(urls, _URIS) | uris if uri.startswith("at://")),
        viewers=chosen,
        pairs=related[:pairs] if pairs else [(a, b) for a in actors for b in actors],
        handles=[*sorted(handles), "nobody.example"],
        words=words[:: max(1, len(words) // MAX_WORDS)],
        issuers=sorted({OPERATORS_LABELER} | _union(urls, "SELECT src FROM bsky.label")),
        cids=sorted({(did, cid) for url in urls for did, cid in rows(url, _CIDS) if cid}),
    )


def _union(urls: Iterable[str], statement: str) -> set[str]:
    return {value for url in urls for (value,) in rows(url, statement) if value}
