"""What an AppView's database holds beside what the stream brings: labels, private state, moderation, suggestions.

Both databases get the same rows, so that the reads of them answer something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from appview_pipeline_tests.conformance.reference.subjects import GENERATOR, LIST, OPERATORS_LABELER, POST, Subjects
from appview_pipeline_tests.support.database import connect

_WHEN = "2026-11-21T00:00:00.000Z"


def write_labels(url: str, labels: Iterable[dict[str, Any]]) -> None:
    """Stores labels as the reference's own programs do: of a key the one that came last, negations among them."""
    with connect(url) as connection, connection.cursor() as cursor:
        for label in labels:
            cursor.execute(
                "INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp) VALUES (%s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (src, uri, cid, val) DO UPDATE "
                "SET neg = excluded.neg, cts = excluded.cts, exp = excluded.exp",
                (
                    *(label["src"], label["uri"], label.get("cid", ""), label["val"], label.get("neg", False)),
                    *(label["cts"], label.get("exp")),
                ),
            )
        connection.commit()


def add_other_state(url: str, subjects: Subjects) -> None:
    """Mutes, bookmarks, drafts, what was seen, preferences, subscriptions, suggestions, takedowns, labels, trusted
    verifiers. Every account has some of each towards the accounts, lists and posts that follow it in the order of
    `subjects`; the last account and the last records are taken down."""
    dids, posts, lists = subjects.actors, subjects.of(POST), subjects.of(LIST)
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO bsky, public")

        def add(table: str, **values: Any) -> None:
            columns = ", ".join(f'"{name}"' for name in values)
            places = ", ".join(["%s"] * len(values))
            cursor.execute(
                f'INSERT INTO "{table}" ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING', tuple(values.values())
            )

        for number, did in enumerate(subjects.viewers):
            other, third = dids[(number + 1) % len(dids)], dids[(number + 2) % len(dids)]
            add("mute", subjectDid=other, mutedByDid=did, createdAt=_WHEN, onlyReposts=number % 2 == 1)
            add("mute", subjectDid=third, mutedByDid=did, createdAt=_later(1), onlyQuoteposts=number % 3 == 1)
            if number % 3 != 1:
                add("actor_state", did=did, lastSeenNotifs="2026-11-20T12:00:04.000Z", priorityNotifs=number % 2 == 0)
            for count, subject in enumerate((other, third)):
                add(
                    "activity_subscription", creator=did, subjectDid=subject, key=f"3kaaaaaaaaa2{'ab'[count]}",
                    indexedAt=_later(count), post=True, reply=count == 1,
                )  # fmt: skip
            for count in range(3):
                add(
                    "draft", creator=did, key=f"3kaaaaaaaaa2{'abc'[count]}", createdAt=_WHEN, updatedAt=_later(count),
                    payload=f'{{"text":"draft {count}"}}',
                )  # fmt: skip
            add(
                "private_data", actorDid=did, namespace="app.bsky.notification.defs#preferences", key="self",
                payload=_PREFERENCES, indexedAt=_WHEN, updatedAt=_WHEN,
            )  # fmt: skip
            for uri in lists[number % 2 :: 2]:
                add("list_mute", listUri=uri, mutedByDid=did, createdAt=_WHEN)
            for count, uri in enumerate(posts[number % 3 :: 3][:5]):
                add("thread_mute", rootUri=uri, mutedByDid=did, createdAt=_WHEN)
                add(
                    "bookmark", creator=did, key=f"3kaaaaaaaaa2{'abcde'[count]}", subjectUri=uri,
                    subjectCid="bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", indexedAt=_later(count),
                )  # fmt: skip
        for number, did in enumerate(dids[:5]):
            add("suggested_follow", did=did, order=number + 1)
            add("tagged_suggestion", tag=f"tag{number}", subject=did, subjectType="actor")
        for number, uri in enumerate(subjects.of(GENERATOR)):
            add("suggested_feed", uri=uri, order=number + 1)
        for did, cid in subjects.cids[:2]:
            add("blob_takedown", did=did, cid=cid, takedownRef="blob-1")
        for number, uri in enumerate((*dids[:3], *posts[:3])):
            add(
                "label", src=OPERATORS_LABELER, uri=uri, cid="", val=("spam", "porn", "rude")[number % 3],
                neg=number == 2, cts=_WHEN, exp=None if number % 2 else "2999-01-01T00:00:00.000Z",
            )  # fmt: skip
        cursor.execute(
            'INSERT INTO post_agg (uri, "bookmarkCount") SELECT "subjectUri", count(*) FROM bookmark GROUP BY 1 '
            'ON CONFLICT (uri) DO UPDATE SET "bookmarkCount" = excluded."bookmarkCount"'
        )
        cursor.execute(
            'UPDATE actor SET "trustedVerifier" = true WHERE did IN (SELECT creator FROM verification); '
            'UPDATE actor SET "ageAssuranceStatus" = \'assured\', "ageAssuranceLastInitiatedAt" = %(when)s '
            "WHERE did = %(first)s; "
            "UPDATE actor SET \"takedownRef\" = 'account-1' WHERE did = %(last)s; "
            "UPDATE record SET \"takedownRef\" = 'record-1' WHERE uri = ANY (%(uris)s)",
            {"when": _WHEN, "first": dids[0], "last": dids[-1], "uris": list(subjects.records[-1:]) + posts[-1:]},
        )
        connection.commit()


def _later(seconds: int) -> str:
    return f"2026-11-21T00:00:0{seconds}.500Z"


_FILTERABLE = '{"include":"follows","list":true,"push":false}'
_PLAIN = '{"list":false,"push":true}'
_PREFERENCES = (
    '{"$type":"app.bsky.notification.defs#preferences",'
    + ",".join(
        f'"{name}":{_FILTERABLE}'
        for name in ("follow", "like", "likeViaRepost", "mention", "quote", "reply", "repost", "repostViaRepost")
    )
    + ","
    + ",".join(f'"{name}":{_PLAIN}' for name in ("starterpackJoined", "subscribedPost", "unverified", "verified"))
    + "}"
)
