"""Which differences of docs/differences.md the corpus and the conformance scenarios show, and where."""

from __future__ import annotations

from collections.abc import Mapping

from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline_tests.conformance.reference.differences import Difference

_ALICE, _BOB = "did:plc:hxncutbdomnmkv65oj7r32ss", "did:plc:dqjbogmxmenc3l3zrohm75tw"

_STORED = (
    'INSERT INTO record (uri, cid, did, json, "indexedAt") VALUES (%(uri)s, %(cid)s, %(did)s, %(json)s, %(indexedAt)s)'
)

# ---- by rule: what these statements change follows from the tables alone

DUPLICATE_NOTIFICATION_PASSES = Difference(
    "counting-duplicate-deleted",
    (
        'UPDATE notification n SET "recordUri" = l.uri, "recordCid" = l.cid FROM "like" l '
        "WHERE n.reason = 'like' AND l.subject = n.\"reasonSubject\" AND l.creator = n.author "
        'AND NOT EXISTS (SELECT FROM record r WHERE r.uri = n."recordUri")',
    ),
)
"""The notification of a like that is gone passes to the one that is left."""

DUPLICATE_NOTIFICATION_GOES = Difference(
    "counting-duplicate-deleted",
    (
        "DELETE FROM notification n WHERE n.reason = 'like' "
        'AND NOT EXISTS (SELECT FROM record r WHERE r.uri = n."recordUri") '
        'AND NOT EXISTS (SELECT FROM "like" l WHERE l.subject = n."reasonSubject" AND l.creator = n.author)',
    ),
)
"""It goes with the last of them."""

QUOTES_ARE_RECOUNTED = Difference(
    "quoted-post-deleted",
    (
        'UPDATE post_agg a SET "quoteCount" = 0 WHERE "quoteCount" <> 0 '
        "AND NOT EXISTS (SELECT FROM quote q WHERE q.subject = a.uri) "
        "AND NOT EXISTS (SELECT FROM record r WHERE r.uri = a.uri)",
    ),
)
"""A deleted post has no quotes."""

QUOTES_ARE_COUNTED_BY_URI = Difference(
    "quote-count-by-uri",
    (
        'UPDATE post_agg a SET "quoteCount" = (SELECT count(*) FROM quote q WHERE q.subject = a.uri) '
        'WHERE "quoteCount" <> (SELECT count(*) FROM quote q WHERE q.subject = a.uri) '
        "AND EXISTS (SELECT FROM quote q WHERE q.subject = a.uri)",
    ),
)
"""A quote counts for the post whose URI it names, not for every post whose CID it names."""

GATE_IS_KNOWN = Difference(
    "gate-before-post",
    (
        'UPDATE post p SET "hasThreadGate" = true FROM thread_gate g '
        'WHERE g."postUri" = p.uri AND p."hasThreadGate" IS NOT true',
    ),
)
"""A post has its thread gate, whichever came first."""


# ---- of one input: the rows are named


def _of_record(record: RecordWrite, **more: str) -> dict[str, str]:
    return {
        "uri": record.uri,
        "cid": record.cid,
        "did": record.did,
        "json": record.json,
        "createdAt": str(record.record["createdAt"]),
        "indexedAt": record.indexed_at,
        **more,
    }


def _unseen_update(records: Mapping[str, RecordWrite]) -> Difference:
    status = records["at://did:plc:mb6o6ohnafbk33xaw5jpn63c/app.bsky.actor.status/self"]
    return Difference("unseen-update", (_STORED,), _of_record(status))


def _unknown_status(records: Mapping[str, RecordWrite]) -> Difference:
    statement = (
        "UPDATE actor SET \"upstreamStatus\" = 'deactivated' WHERE did = %(did)s AND \"upstreamStatus\" = 'takendown'"
    )
    return Difference("unknown-inactive-status", (statement,), {"did": _ALICE})


def _older_label(records: Mapping[str, RecordWrite]) -> Difference:
    statement = (
        "UPDATE label SET neg = true, cts = '2026-11-20T12:00:06.000Z' "
        "WHERE val = 'porn' AND cts = '2026-11-20T12:00:03.000Z' AND NOT neg"
    )
    return Difference("older-label", (statement,))


def _nul_post(uri: str, text: str, records: Mapping[str, RecordWrite]) -> Difference:
    return Difference(
        "nul-in-text",
        (
            _STORED,
            'INSERT INTO post (uri, cid, creator, text, "createdAt", "indexedAt") '
            "VALUES (%(uri)s, %(cid)s, %(did)s, %(text)s, %(createdAt)s, %(indexedAt)s)",
            'INSERT INTO feed_item (type, uri, cid, "postUri", "originatorDid", "sortAt") '
            "VALUES ('post', %(uri)s, %(cid)s, %(uri)s, %(did)s, %(createdAt)s)",
            'UPDATE profile_agg SET "postsCount" = "postsCount" + 1 WHERE did = %(did)s',
        ),
        _of_record(records[uri], text=text),
    )


_NUL_PROFILE = (
    'INSERT INTO profile (uri, cid, creator, "displayName", description, "createdAt", "indexedAt") '
    "VALUES (%(uri)s, %(cid)s, %(did)s, 'nulname', 'd', %(createdAt)s, %(indexedAt)s)"
)
_NUL_LIST = (
    'INSERT INTO list (uri, cid, creator, name, purpose, "createdAt", "indexedAt") '
    "VALUES (%(uri)s, %(cid)s, %(did)s, 'nullist', 'app.bsky.graph.defs#curatelist', %(createdAt)s, %(indexedAt)s)"
)


def _nul_record(uri: str, row: str, records: Mapping[str, RecordWrite]) -> Difference:
    """`row`: the statement that adds its row."""
    return Difference("nul-in-text", (_STORED, row), _of_record(records[uri]))


def _older_like(records: Mapping[str, RecordWrite]) -> Difference:
    return Difference(
        "older-rev",
        (
            "DELETE FROM record WHERE uri = %(uri)s",
            'DELETE FROM "like" WHERE uri = %(uri)s',
            'DELETE FROM notification WHERE "recordUri" = %(uri)s',
            'UPDATE post_agg SET "likeCount" = 0 WHERE uri = %(subject)s AND "likeCount" = 1',
            "UPDATE actor_sync SET \"repoRev\" = '3n2qjy4fbg222' WHERE did = %(did)s AND \"repoRev\" = '3n2qjy3gqu222'",
        ),
        {
            "uri": f"at://{_ALICE}/app.bsky.feed.like/3n2qjy2iac424",
            "subject": f"at://{_BOB}/app.bsky.feed.post/3n2qjxwo62323",
            "did": _ALICE,
        },
    )


def _older_profile(records: Mapping[str, RecordWrite]) -> Difference:
    return Difference(
        "older-rev",
        (
            'UPDATE record SET cid = %(cid)s, json = %(json)s, "indexedAt" = %(indexedAt)s WHERE uri = %(uri)s',
            'UPDATE profile SET cid = %(cid)s, "displayName" = \'v3\', "createdAt" = %(createdAt)s, '
            '"indexedAt" = %(indexedAt)s WHERE uri = %(uri)s AND "displayName" = \'v2\'',
        ),
        _of_record(records[f"at://{_ALICE}/app.bsky.actor.profile/self"]),
    )


def expected_differences(name: str, checkpoint: str, records: Mapping[str, RecordWrite]) -> list[Difference]:
    """The differences of an input ("corpus", or a scenario's id) at a checkpoint. `records`: its valid records as they
    are by then, by URI: for each the one of the newest rev."""
    where = (name, checkpoint)
    if where in (("06-duplicates-like", "after-delete-first"), ("06-duplicates-like", "after-delete-a-duplicate")):
        return [DUPLICATE_NOTIFICATION_PASSES]
    if where == ("06-duplicates-like", "final"):
        return [DUPLICATE_NOTIFICATION_GOES]
    if where == ("12-quotes", "final"):
        return [QUOTES_ARE_RECOUNTED]
    if where == ("46-gate-before-post", "gated"):
        return [GATE_IS_KNOWN]
    if where == ("corpus", "final"):
        return [_unseen_update(records)]
    if where == ("27-account-status", "throttled-ignored"):
        return [_unknown_status(records)]
    if where == ("30-labels", "final"):
        return [_older_label(records)]
    if where == ("32-nul-and-odd-text", "final"):
        return [
            _nul_post(f"at://{_ALICE}/app.bsky.feed.post/3n2qjxwo62424", "nul  inside", records),
            _nul_post(f"at://{_ALICE}/app.bsky.feed.post/3n2qjxwo62525", "", records),
            _nul_record(f"at://{_BOB}/app.bsky.actor.profile/self", _NUL_PROFILE, records),
            _nul_record(f"at://{_ALICE}/app.bsky.graph.list/3n2qjxzjpqh2h", _NUL_LIST, records),
        ]
    if where == ("41-out-of-order-rev", "final"):
        return [_older_like(records), _older_profile(records)]
    return []
