"""Which rows of docs/differences.md a stream of events shows, as statements that make ours of the reference's tables.

Each changes what its row says and nothing else. So after all of them every read must be answered the same: what still
differs, no row explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.store.accounts import ACTIVE, GONE
from appview_pipeline_tests.conformance.reference.differences import Difference
from appview_pipeline_tests.conformance.reference.generated import Answers, Events, GeneratedNetwork, Labels
from appview_pipeline_tests.conformance.reference.oracle import Call
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


@dataclass
class Departures:
    """What the steps say of accounts that were deleted.

    `gone`: those accounts, also those that have returned. `returned`: by account that has, the time of its deletion.
    `silent`: accounts of `gone` that have made no commit since. `marks`: by account, our mark of it, where the
    reference has lost its own with the account's row (None: we have a row without). `kept`: accounts of which we have
    such a row and the reference none. `replies`: posts that were written when a post above them, or their root, was
    gone with its account.
    """

    gone: set[str] = field(default_factory=set)
    returned: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    marks: dict[str, str | None] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    replies: set[str] = field(default_factory=set)
    _away: set[str] = field(default_factory=set)
    _marked: dict[str, str] = field(default_factory=dict)
    _posts: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _deleted_at: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, network: GeneratedNetwork) -> Departures:
        found = cls()
        for step in network.steps:
            if isinstance(step, Answers):
                departed = {did for did, status in step.statuses.items() if status == GONE}
                found._depart(departed | {did for did, document in step.documents.items() if document is None})
                found._away -= {did for did, status in step.statuses.items() if status == ACTIVE}
            elif isinstance(step, Call) and step.method in ("takedownActor", "untakedownActor"):
                found._mark(step.request["did"], step.request.get("ref"))
            elif isinstance(step, Events):
                found._follow(step.frames)
        found.kept = found._away & found.marks.keys()
        found.returned = {did: at for did, at in found._deleted_at.items() if did not in found._away}
        return found

    def _depart(self, dids: set[str]) -> None:
        self.gone |= dids
        self.silent |= dids
        self._away |= dids
        self._lost |= {uri for uri in self._posts if host_of(uri) in dids}
        self.marks.update({did: self._marked[did] for did in dids if did in self._marked})

    def _mark(self, did: str, mark: str | None) -> None:
        if did in self._away and did not in self.marks:  # neither side has a row
            return
        if mark is None:
            self._marked.pop(did, None)
        else:
            self._marked[did] = mark
        if did in self._away:
            self.marks[did] = mark
        else:
            self.marks.pop(did, None)  # both rows have it, or neither

    def _follow(self, frames: Iterable[bytes]) -> None:
        for change in read_changes(list(frames), validators(), COLLECTIONS):
            if change.account is not None and change.account.status == "deleted":
                self._deleted_at[change.account.did] = change.account.time
            if change.repo is not None and change.ops:
                self.silent.discard(change.repo.did)
            for write in change.writes:
                if write.collection == POST:
                    self._lost.discard(write.uri)
                    reply = write.record.get("reply")
                    self._posts[write.uri] = reply and (reply["parent"]["uri"], reply["root"]["uri"])
                    if self._is_below_a_lost_one(write.uri):
                        self.replies.add(write.uri)

    def _is_below_a_lost_one(self, uri: str) -> bool:
        for _ in range(_ANCESTORS):
            if (above := self._posts.get(uri)) is None:
                return False
            if not self._lost.isdisjoint(above):
                return True
            uri = above[0]
        return False


_ANCESTORS = 6
"""Posts above a reply that are looked at: more than whose authors it notifies."""


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
_OF_POSTS = ("likeCount", "repostCount", "quoteCount", "replyCount")
_COUNTS = {
    "likeCount": 'bsky."like" l WHERE l.subject = a.uri',
    "repostCount": "bsky.repost r WHERE r.subject = a.uri",
    "quoteCount": "bsky.quote q WHERE q.subject = a.uri",
    "replyCount": 'bsky.post p WHERE p."replyParent" = a.uri AND p."violatesThreadGate" IS NOT TRUE',
    "followersCount": 'bsky.follow f WHERE f."subjectDid" = a.did',
    "followsCount": "bsky.follow f WHERE f.creator = a.did",
    "postsCount": "bsky.post p WHERE p.creator = a.did",
}
"""By column of an aggregate, what it counts."""


def _recount(table: str, key: str, counts: Mapping[str, str], where: str = "true") -> str:
    """A statement that sets the counts of the aggregates that are wrong."""
    names = ", ".join(f'"{name}"' for name in counts)
    right = ", ".join(f'(SELECT count(*) FROM {counted}) AS "{name}"' for name, counted in counts.items())
    assigned = ", ".join(f'"{name}" = n."{name}"' for name in counts)
    stored, counted = (", ".join(f'{it}."{name}"' for name in counts) for it in "an")
    return f"""
UPDATE bsky.{table} a SET {assigned}
FROM (SELECT a.{key}, {right} FROM bsky.{table} a WHERE {where}) n ({key}, {names})
WHERE a.{key} = n.{key} AND ({stored}) IS DISTINCT FROM ({counted})
"""


_QUOTES = {"quoteCount": _COUNTS["quoteCount"]}
_IF_REPEATED = "EXISTS (SELECT FROM bsky.duplicate_record)"
_IS_THERE = "EXISTS (SELECT FROM bsky.post p WHERE p.uri = a.uri)"

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


_FIRST_ITEMS = """
SELECT DISTINCT ON (d.did, d.value ->> 'subject', d.value ->> 'list')
  d.uri, d.cid, d.did, d.value ->> 'subject', d.value ->> 'list', d.value ->> 'createdAt', d."indexedAt"
FROM (SELECT r.*, r.json::jsonb AS value FROM bsky.record r WHERE r.uri LIKE 'at://%%/app.bsky.graph.listitem/%%') d
ORDER BY d.did, d.value ->> 'subject', d.value ->> 'list', d."indexedAt", d.uri
"""
_ITEMS = (
    f"""
INSERT INTO bsky.list_item (uri, cid, creator, "subjectDid", "listUri", "createdAt", "indexedAt")
SELECT * FROM ({_FIRST_ITEMS}) f
WHERE EXISTS (SELECT FROM bsky.duplicate_record o WHERE o.uri = f.uri)
ON CONFLICT DO NOTHING
""",
    f"""
UPDATE bsky.list_item t SET uri = f.uri, cid = f.cid, "createdAt" = f.created, "indexedAt" = f.indexed
FROM ({_FIRST_ITEMS}) f (uri, cid, did, subject, list, created, indexed)
WHERE t.creator = f.did AND t."subjectDid" = f.subject AND t."listUri" = f.list AND t.uri <> f.uri
""",
)
"""As `_orphans` and `_first`, of the two parts of a list item's key."""


def _first(table: str) -> str:
    """Makes the first of an account's records count where the reference, to which it was a duplicate of nothing, has
    taken a later one. (For tables without notifications.)"""
    collection, column, path, _ = PAIRS[table]
    return f"""
UPDATE bsky."{table}" t SET uri = f.uri, cid = f.cid, "createdAt" = f.created, "indexedAt" = f.indexed
FROM (
  SELECT DISTINCT ON (r.did, subject)
    r.did, subject, r.uri, r.cid, r.json::jsonb ->> 'createdAt' AS created, r."indexedAt" AS indexed
  FROM bsky.record r
  CROSS JOIN LATERAL (SELECT r.json::jsonb #>> '{path}' AS subject) s
  WHERE r.uri LIKE 'at://%%/{collection}/%%'
  ORDER BY r.did, subject, r."indexedAt", r.uri
) f
WHERE t.creator = f.did AND t."{column}" = f.subject AND t.uri <> f.uri
"""


_RECOUNT = (
    _recount("post_agg", "uri", {name: _COUNTS[name] for name in ("likeCount", "repostCount")}, _IF_REPEATED),
    _recount("profile_agg", "did", {name: _COUNTS[name] for name in ("followersCount", "followsCount")}, _IF_REPEATED),
)

_NOTIFYING = (
    ("like", "like", 't.subject = n."reasonSubject"'),
    ("like", "like-via-repost", 't.via = n."reasonSubject"'),
    ("repost", "repost", 't.subject = n."reasonSubject"'),
    ("repost", "repost-via-repost", 't.via = n."reasonSubject"'),
    ("follow", "follow", 't."subjectDid" = n.did'),
)
"""Tables of which the record that counts notifies, the reason, and which of them it is by the notification."""

# A record that does not count was notified of, counted, was deleted, and may have been created again since.
_PASSING = [
    f"""
UPDATE bsky.notification n SET "recordUri" = t.uri, "recordCid" = t.cid
FROM bsky."{table}" t
WHERE n.reason = '{reason}' AND t.creator = n.author AND {subject}
  AND NOT EXISTS (SELECT FROM bsky."{table}" c WHERE c.uri = n."recordUri")
  AND NOT EXISTS (
    SELECT FROM bsky.notification o WHERE o."recordUri" = t.uri AND o.reason = n.reason AND o.did = n.did
  )
"""
    for table, reason, subject in _NOTIFYING
]
_WITHDRAWN = [
    f"""
DELETE FROM bsky.notification n
WHERE n.reason = '{reason}' AND NOT EXISTS (SELECT FROM bsky."{table}" c WHERE c.uri = n."recordUri")
"""
    for table, reason, _ in _NOTIFYING
]

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
_GONE_REVS = "DELETE FROM bsky.actor_sync WHERE did = ANY (%(silent)s)"
_GONE_REPLIES = """
UPDATE bsky.post p SET "invalidReplyRoot" = f.invalid, "violatesThreadGate" = f.violates
FROM unnest(%(replies)s::text[], %(invalid)s::bool[], %(violates)s::bool[]) f (uri, invalid, violates)
WHERE p.uri = f.uri AND (p."invalidReplyRoot", p."violatesThreadGate") IS DISTINCT FROM (f.invalid, f.violates)
"""
_NOTIFIED = """
INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
SELECT f.*
FROM unnest(
  %(dids)s::text[], %(records)s::text[], %(cids)s::text[], %(authors)s::text[], %(reasons)s::text[],
  %(subjects)s::text[], %(times)s::text[]
) f (did, uri, cid, author, reason, subject, at)
WHERE NOT EXISTS (
  SELECT FROM bsky.notification n WHERE (n.did, n."recordUri", n.reason) = (f.did, f.uri, f.reason)
)
"""
_REMOVED_BEFORE = """
SELECT n.did, n."recordUri", n."recordCid", n.author, n.reason, n."reasonSubject", n."sortAt"
FROM bsky.notification n
JOIN unnest(%s::text[], %s::text[]) d (did, at) ON n.did = d.did AND n."sortAt" < d.at
JOIN pipeline.kept_notification k ON k.uri = n."recordUri"
WHERE n.reason = ANY (%s)
"""
_MARKED = """
UPDATE bsky.actor a SET "takedownRef" = f.mark
FROM unnest(%(dids)s::text[], %(marks)s::text[]) f (did, mark)
WHERE a.did = f.did AND a."takedownRef" IS DISTINCT FROM f.mark
"""
_ROW_KEPT = """
INSERT INTO bsky.actor (did, "indexedAt", "takedownRef", "upstreamStatus")
SELECT f.did, f.at, f.mark, 'deleted'
FROM unnest(%(dids)s::text[], %(marks)s::text[], %(at)s::text[]) f (did, mark, at)
WHERE f.at IS NOT NULL
ON CONFLICT DO NOTHING
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
    _recount("post_agg", "uri", {name: _COUNTS[name] for name in _COUNTS if name in _OF_POSTS}),
    _recount("profile_agg", "did", {name: _COUNTS[name] for name in _COUNTS if name not in _OF_POSTS}),
)


NAMES = frozenset(
    (
        *("duplicates-deleted", "opt-out-promoted", "counting-duplicate-deleted", "notification-once", "second-repost"),
        *("post-edited", "gated-post-edited", "gate-before-post", "own-reply-edited", "quote-count-by-uri"),
        *("quoted-post-deleted", "account-deleted", "account-returned", "returned-notified", "takedown-kept"),
        *("created-and-deleted", "label-negation-by-cid"),
    )
)
"""The names of all differences that generated networks may show."""


def expected(network: GeneratedNetwork, ours: str) -> list[Difference]:
    """The differences that a network may show, in the order in which they are undone.

    Of likes and the like it must have no edits, and its labels must come in the order of their times. `ours`: the URL
    of our database, from which the times of accounts that have returned are taken.
    """
    facts = Facts.of(network.frames)
    departures = Departures.of(network)
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
            "duplicates-deleted",
            [
                *_orphans(("like", "repost", "follow", "actor_block", "list_block")),
                *(*_ITEMS, _first("actor_block"), _first("list_block")),
                *_RECOUNT,
            ],
        ),
        Difference("opt-out-promoted", [*_orphans(("reference_list_opt_out",)), _first("reference_list_opt_out")]),
        Difference("counting-duplicate-deleted", [*_PASSING, *_WITHDRAWN]),
        Difference("notification-once", [_AGAIN]),
        Difference("second-repost", [_SECOND_REPOSTS]),
        Difference("post-edited", [_EDITED_REPOSTS, _EDITED_QUOTES], posts),
        *_flags(facts, "gated-post-edited"),
        *_flags(facts, "gate-before-post"),
        Difference("own-reply-edited", [_OWN_REPLIES], replies),
        Difference("quote-count-by-uri", [_recount("post_agg", "uri", _QUOTES, _IS_THERE)]),
        Difference("quoted-post-deleted", [_recount("post_agg", "uri", _QUOTES, f"NOT {_IS_THERE}")]),
        *_departed(ours, departures),
        *_returned(ours, departures.gone),
        Difference("created-and-deleted", [_UNSEEN], {"counted": [did for (did,) in rows(ours, _COUNTED)]}),
        *_negated(network),
    ]


_COUNTED = "SELECT did FROM bsky.profile_agg"


def _departed(ours: str, departures: Departures) -> list[Difference]:
    """What becomes of accounts that were deleted, and of replies to their posts. How those are evaluated, and whom they
    notify, is taken from our database: the model says whether it is right (properties/test_removals.py)."""
    if not departures.gone:
        return []
    parts = ("feed_item", "quote", "starter_pack", "verification", "op_thread_reply")
    removed = [_GONE_REPLIES, _NOTIFIED, *(_GONE.format(table=table) for table in parts), _GONE_REVS, *_RECOUNT_ALL]
    replies = sorted(departures.replies)
    evaluated = rows(ours, _EVALUATED, replies)
    notified = rows(ours, _OF_REPLIES, replies)
    columns = ("dids", "records", "cids", "authors", "reasons", "subjects", "times")
    parameters = {
        "gone": sorted(departures.gone),
        "silent": sorted(departures.silent),
        **{name: [row[number] for row in evaluated] for number, name in enumerate(("replies", "invalid", "violates"))},
        **{name: [row[number] for row in notified] for number, name in enumerate(columns)},
    }
    found = [Difference("account-deleted", removed, parameters)]
    reasons = [reason for _, reason, _ in _NOTIFYING]
    again = rows(ours, _REMOVED_BEFORE, list(departures.returned), list(departures.returned.values()), reasons)
    if again:
        columns_again = {name: [row[number] for row in again] for number, name in enumerate(columns)}
        found.append(Difference("returned-notified", [_NOTIFIED], columns_again))
    if departures.marks:
        times = dict(rows(ours, 'SELECT did, "indexedAt" FROM bsky.actor WHERE did = ANY (%s)', list(departures.marks)))
        kept = {did for did in departures.marks if did in departures.kept}
        marks = {
            "dids": list(departures.marks),
            "marks": list(departures.marks.values()),
            "at": [times.get(did) if did in kept else None for did in departures.marks],
        }
        found.append(Difference("takedown-kept", [_ROW_KEPT, _MARKED], marks))
    return found


_EVALUATED = 'SELECT uri, "invalidReplyRoot", "violatesThreadGate" FROM bsky.post WHERE uri = ANY (%s)'
_OF_REPLIES = """
SELECT did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt"
FROM bsky.notification
WHERE reason IN ('reply', 'mention', 'quote') AND "recordUri" = ANY (%s)
"""


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
