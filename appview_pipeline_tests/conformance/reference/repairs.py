"""Which rows of docs/differences.md a stream of events shows, as statements that make ours of the reference's tables.

Each changes what its row says and nothing else. So after all of them every read must be answered the same: what still
differs, no row explains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.store.accounts import GONE
from appview_pipeline_tests.conformance.reference.differences import Difference
from appview_pipeline_tests.conformance.reference.generated import Answers, GeneratedNetwork, Labels
from appview_pipeline_tests.properties import record_rules
from appview_pipeline_tests.support.changes import COLLECTIONS, validators
from appview_pipeline_tests.support.commits import POST, POSTGATE, THREADGATE, collection_of, host_of
from appview_pipeline_tests.support.tables import rows


@dataclass
class Facts:
    """What the events say that the tables do not: what became of posts and gates, in the order of the stream.

    `edited`: posts that were edited since they were written last. `deleted_at`: the event's time at which a post was
    deleted last. `flags`: by post and flag, what we have, and the difference that makes it ("": none). `own_replies`:
    by root and URI of an author's reply in a thread of their own, its parent and when it left the thread, by an edit or
    its deletion (None: it is there). `rewritten`: posts that were written more than once.
    """

    edited: set[str] = field(default_factory=set)
    deleted_at: dict[str, str] = field(default_factory=dict)
    flags: dict[tuple[str, str], tuple[bool | None, str]] = field(default_factory=dict)
    own_replies: dict[tuple[str, str], tuple[str, str | None]] = field(default_factory=dict)
    rewritten: set[str] = field(default_factory=set)
    _alive: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, frames: Iterable[bytes]) -> Facts:
        facts = cls()
        for change in read_changes(list(frames), validators(), COLLECTIONS):
            for write in change.writes:
                named = write.record.get("post") if write.collection in _FLAGS else None
                if named is not None and collection_of(named) != POST:  # a gate of another record
                    facts._delete(write.uri, change.time or "")
                    continue
                facts._write(write.uri)
                if write.collection == POST:
                    facts._reply(write.uri, write.record.get("reply"), change.time or "")
            for gone in change.deletes:
                facts._delete(gone.uri, change.time or "")
        return facts

    def _write(self, uri: str) -> None:
        collection, is_new = collection_of(uri), uri not in self._alive
        self._alive.add(uri)
        if collection == POST:
            if is_new:
                self.edited.discard(uri)
            else:
                self.edited.add(uri)
            for gate, flag in _FLAGS.items():
                has = record_rules.gate_of(uri, gate) in self._alive or None
                kept = self.flags.get((uri, flag), (None, ""))[0]
                self.flags[uri, flag] = (has, "gate-before-post") if is_new else (kept, "gated-post-edited")
        elif collection in _FLAGS:
            self._gate(uri, collection, True)

    def _reply(self, uri: str, reply: Any, time: str) -> None:
        self.rewritten |= {uri} & {its for _, its in self.own_replies}
        for (root, its), (parent, left) in self.own_replies.items():
            if its == uri and left is None:
                self.own_replies[root, its] = parent, time
        if reply is not None and host_of(reply["root"]["uri"]) == host_of(uri):
            self.own_replies[reply["root"]["uri"], uri] = reply["parent"]["uri"], None

    def _delete(self, uri: str, time: str) -> None:
        collection = collection_of(uri)
        was_there = uri in self._alive
        self._alive.discard(uri)
        if collection == POST:
            self.edited.discard(uri)
            self.deleted_at[uri] = time
            for (root, its), (parent, left) in self.own_replies.items():
                if its == uri and left is None:
                    self.own_replies[root, its] = parent, time
            for flag in _FLAGS.values():
                self.flags.pop((uri, flag), None)
        elif collection in _FLAGS and was_there:
            self._gate(uri, collection, False)

    def _gate(self, uri: str, collection: str, has: bool) -> None:
        post = uri.replace(f"/{collection}/", f"/{POST}/")
        if post in self._alive:
            self.flags[post, _FLAGS[collection]] = has, ""


_FLAGS = {THREADGATE: "hasThreadGate", POSTGATE: "hasPostGate"}


_DELETED = "coalesce((SELECT at FROM unnest(%(deleted)s::text[], %(at)s::text[]) d (uri, at) WHERE d.uri = {}), '')"
_EDITED_REPOSTS = f"""
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT r.uri, r.cid, 'repost', r.subject, r.creator, r."sortAt"
FROM bsky.repost r
WHERE r.subject = ANY (%(edited)s) AND r."indexedAt" > {_DELETED.format("r.subject")}
ON CONFLICT DO NOTHING
"""
_EDITED_QUOTES = f"""
INSERT INTO bsky.quote (uri, cid, subject, "subjectCid", "createdAt", "indexedAt")
SELECT p.uri, p.cid, e."embedUri", e."embedCid", p."createdAt", p."indexedAt"
FROM bsky.post_embed_record e
JOIN bsky.post p ON p.uri = e."postUri"
WHERE e."embedUri" = ANY (%(edited)s) AND p."indexedAt" > {_DELETED.format('e."embedUri"')}
ON CONFLICT DO NOTHING
"""


_FLAGGED = """
UPDATE bsky.post p SET "{flag}" = f.value
FROM unnest(%(posts)s::text[], %(values)s::bool[]) f (uri, value)
WHERE p.uri = f.uri AND p."{flag}" IS DISTINCT FROM f.value
"""
_COUNT = """
UPDATE bsky.post_agg a SET "quoteCount" = (SELECT count(*) FROM bsky.quote q WHERE q.subject = a.uri)
WHERE {} EXISTS (SELECT FROM bsky.post p WHERE p.uri = a.uri)
"""

PAIRS = {
    "like": ("app.bsky.feed.like", "subject", "{subject,uri}", {"subjectCid": "{subject,cid}"}),
    "repost": ("app.bsky.feed.repost", "subject", "{subject,uri}", {"subjectCid": "{subject,cid}"}),
    "follow": ("app.bsky.graph.follow", "subjectDid", "{subject}", {}),
    "actor_block": ("app.bsky.graph.block", "subjectDid", "{subject}", {}),
    "list_block": ("app.bsky.graph.listblock", "subjectUri", "{subject}", {}),
    "reference_list_opt_out": ("app.bsky.graph.referencelistoptout", "subjectUri", "{subject}", {}),
}
"""Tables in which an account's first record about a subject counts: collection, column and path of it, others."""


def _orphans(tables: Iterable[str]) -> list[str]:
    """Makes the first of an account's duplicates count where none does."""
    statements = []
    for table in tables:
        collection, column, path, more = PAIRS[table]
        columns = ["uri", "cid", "creator", column, "createdAt", "indexedAt", *more]
        values = ["d.uri", "d.cid", "d.did", f"d.value #>> '{path}'", "d.value ->> 'createdAt'", 'd."indexedAt"']
        values += [f"d.value #>> '{path}'" for path in more.values()]
        if table in ("like", "repost"):
            columns += ["via", "viaCid"]
            values += ["d.value #>> '{via,uri}'", "d.value #>> '{via,cid}'"]
        names = ", ".join(f'"{name}"' for name in columns)
        statements.append(f"""
INSERT INTO bsky."{table}" ({names})
SELECT DISTINCT ON (d.did, d.value #>> '{path}') {", ".join(values)}
FROM (SELECT r.*, r.json::jsonb AS value FROM bsky.record r WHERE r.uri LIKE 'at://%%/{collection}/%%') d
JOIN bsky.duplicate_record o ON o.uri = d.uri
ORDER BY d.did, d.value #>> '{path}', d."indexedAt", d.uri
ON CONFLICT DO NOTHING
""")
    return statements


_RECOUNT = (
    """
UPDATE bsky.post_agg a SET
  "likeCount" = (SELECT count(*) FROM bsky."like" l WHERE l.subject = a.uri),
  "repostCount" = (SELECT count(*) FROM bsky.repost r WHERE r.subject = a.uri)
WHERE EXISTS (SELECT FROM bsky.duplicate_record)
""",
    """
UPDATE bsky.profile_agg a SET
  "followersCount" = (SELECT count(*) FROM bsky.follow f WHERE f."subjectDid" = a.did),
  "followsCount" = (SELECT count(*) FROM bsky.follow f WHERE f.creator = a.did)
WHERE EXISTS (SELECT FROM bsky.duplicate_record)
""",
)

_PASSING = [
    f"""
UPDATE bsky.notification n SET "recordUri" = t.uri, "recordCid" = t.cid
FROM bsky."{table}" t
WHERE n.reason = '{reason}' AND t.creator = n.author AND {subject}
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = n."recordUri")
  AND NOT EXISTS (
    SELECT FROM bsky.notification o WHERE o."recordUri" = t.uri AND o.reason = n.reason AND o.did = n.did
  )
"""
    for table, reason, subject in (
        ("like", "like", 't.subject = n."reasonSubject"'),
        ("like", "like-via-repost", 't.via = n."reasonSubject"'),
        ("repost", "repost", 't.subject = n."reasonSubject"'),
        ("repost", "repost-via-repost", 't.via = n."reasonSubject"'),
        ("follow", "follow", 't."subjectDid" = n.did'),
    )
]
_WITHDRAWN = """
DELETE FROM bsky.notification n
WHERE n.reason IN ('like', 'repost', 'follow', 'like-via-repost', 'repost-via-repost')
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = n."recordUri")
"""

_AGAIN = """
DELETE FROM bsky.notification n
WHERE n.reason IN ('starterpack-joined', 'verified', 'unverified') AND EXISTS (
  SELECT FROM bsky.notification o
  WHERE (o.did, o."recordUri", o.reason) = (n.did, n."recordUri", n.reason) AND o.id < n.id
)
"""
_SECOND_REPOSTS = """
DELETE FROM bsky.feed_item f
WHERE f.type = 'repost' AND NOT EXISTS (SELECT FROM bsky.repost r WHERE r.uri = f.uri)
"""
_OWN_REPLIES = """
UPDATE bsky.op_thread_reply o SET "parentUri" = f.parent, "deletedAt" = f.at
FROM unnest(%(roots)s::text[], %(uris)s::text[], %(parents)s::text[], %(at)s::text[]) f (root, uri, parent, at)
WHERE o."rootUri" = f.root AND o.uri = f.uri AND (o."parentUri", o."deletedAt") IS DISTINCT FROM (f.parent, f.at)
"""


_GONE = """
DELETE FROM bsky.{table} t
WHERE split_part(t.uri, '/', 3) = ANY (%(gone)s) AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = t.uri)
"""
_GONE_REVS = """
DELETE FROM bsky.actor_sync s
WHERE s.did = ANY (%(gone)s) AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.did = s.did)
"""
_RETURNED = """
UPDATE bsky.actor a SET "indexedAt" = o.at
FROM unnest(%(dids)s::text[], %(at)s::text[]) o (did, at)
WHERE a.did = o.did AND a."indexedAt" <> o.at
"""
_UNSEEN = """
DELETE FROM bsky.profile_agg a
WHERE "followersCount" = 0 AND "followsCount" = 0 AND "postsCount" = 0 AND did <> ALL (%(counted)s)
"""
_NEGATED = """
UPDATE bsky.label l SET neg = true, exp = NULL
FROM unnest(%(srcs)s::text[], %(uris)s::text[], %(vals)s::text[], %(cts)s::text[]) n (src, uri, val, cts)
WHERE NOT l.neg AND (l.src, l.uri, l.val) = (n.src, n.uri, n.val) AND n.cts >= l.cts
"""
_RECOUNT_ALL = (
    """
UPDATE bsky.post_agg a SET
  "likeCount" = (SELECT count(*) FROM bsky."like" l WHERE l.subject = a.uri),
  "repostCount" = (SELECT count(*) FROM bsky.repost r WHERE r.subject = a.uri),
  "quoteCount" = (SELECT count(*) FROM bsky.quote q WHERE q.subject = a.uri),
  "replyCount" = (
    SELECT count(*) FROM bsky.post p WHERE p."replyParent" = a.uri AND p."violatesThreadGate" IS NOT TRUE
  )
""",
    """
UPDATE bsky.profile_agg a SET
  "followersCount" = (SELECT count(*) FROM bsky.follow f WHERE f."subjectDid" = a.did),
  "followsCount" = (SELECT count(*) FROM bsky.follow f WHERE f.creator = a.did),
  "postsCount" = (SELECT count(*) FROM bsky.post p WHERE p.creator = a.did)
""",
)


def expected(network: GeneratedNetwork, ours: str) -> list[Difference]:
    """The differences that a network may show, in the order in which they are undone.

    Of likes and the like it must have no edits, and its labels must come in the order of their times. `ours`: the URL
    of our database, from which the times of accounts that have returned are taken.
    """
    facts = Facts.of(network.frames)
    answers = [step for step in network.steps if isinstance(step, Answers)]
    gone = {did for it in answers for did, status in it.statuses.items() if status == GONE}
    gone |= {did for it in answers for did, document in it.documents.items() if document is None}
    parts = ("feed_item", "quote", "starter_pack", "verification", "op_thread_reply")
    removed = [*(_GONE.format(table=table) for table in parts), _GONE_REVS, *_RECOUNT_ALL]
    posts = {
        "edited": sorted(facts.edited),
        "deleted": list(facts.deleted_at),
        "at": list(facts.deleted_at.values()),
    }
    own = [(*key, *value) for key, value in facts.own_replies.items() if key[1] in facts.rewritten]
    replies = dict(zip(("roots", "uris", "parents", "at"), map(list, zip(*own, strict=True)), strict=False))
    replies = replies or {name: [] for name in ("roots", "uris", "parents", "at")}
    return [
        Difference(
            "duplicates-deleted", [*_orphans(("like", "repost", "follow", "actor_block", "list_block")), *_RECOUNT]
        ),
        Difference("opt-out-promoted", _orphans(("reference_list_opt_out",))),
        Difference("counting-duplicate-deleted", [*_PASSING, _WITHDRAWN]),
        Difference("notification-once", [_AGAIN]),
        Difference("second-repost", [_SECOND_REPOSTS]),
        Difference("post-edited", [_EDITED_REPOSTS, _EDITED_QUOTES], posts),
        *_flags(facts, "gated-post-edited"),
        *_flags(facts, "gate-before-post"),
        Difference("own-reply-edited", [_OWN_REPLIES], replies),
        Difference("quote-count-by-uri", [_COUNT.format("")]),
        Difference("quoted-post-deleted", [_COUNT.format("NOT")]),
        *([Difference("account-deleted", removed, {"gone": sorted(gone)})] if gone else []),
        *_returned(ours, gone),
        Difference("created-and-deleted", [_UNSEEN], {"counted": [did for (did,) in rows(ours, _COUNTED)]}),
        *_negated(network),
    ]


_COUNTED = "SELECT did FROM bsky.profile_agg"


def _returned(ours: str, gone: Iterable[str]) -> list[Difference]:
    found = rows(ours, 'SELECT did, "indexedAt" FROM bsky.actor WHERE did = ANY (%s)', sorted(gone))
    parameters = {"dids": [did for did, _ in found], "at": [at for _, at in found]}
    return [Difference("account-returned", [_RETURNED], parameters)] if found else []


def _negated(network: GeneratedNetwork) -> list[Difference]:
    labels = [label for step in network.steps if isinstance(step, Labels) for label in step.labels]
    ends = [label for label in labels if label.get("neg")]
    names = {"srcs": "src", "uris": "uri", "vals": "val", "cts": "cts"}
    parameters = {name: [label[part] for label in ends] for name, part in names.items()}
    return [Difference("label-negation-by-cid", [_NEGATED], parameters)] if ends else []


def _flags(facts: Facts, name: str) -> list[Difference]:
    found = []
    for flag in _FLAGS.values():
        values = {uri: value for (uri, its), (value, why) in facts.flags.items() if (its, why) == (flag, name)}
        if values:
            parameters: dict[str, Any] = {"posts": list(values), "values": list(values.values())}
            found.append(Difference(name, [_FLAGGED.format(flag=flag)], parameters))
    return found
