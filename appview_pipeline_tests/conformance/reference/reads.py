"""Every read of the reference's data plane, and the requests for it (README.md).

`READS` and `METHODS_THAT_WRITE` together are all methods of the data plane's service; a test compares. What an answer
leaves open (lists without an order, one of several rows) `canonical` takes out, and nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from appview_pipeline_tests.conformance.reference.oracle import Answer, Call
from appview_pipeline_tests.conformance.reference.subjects import (
    GENERATOR,
    LABELER,
    LIST,
    POST,
    STARTER_PACK,
    Subjects,
)

PAGE = 2
"""Items of a page that is followed to the next: small, so that there are cursors."""
MANY = 100
"""Items of a request or of an answer that is not followed: what the AppView asks for at most."""

_Request = dict[str, Any]


_LIKE, _REPOST = "app.bsky.feed.like", "app.bsky.feed.repost"
_THREAD_GATE, _POST_GATE = "app.bsky.feed.threadgate", "app.bsky.feed.postgate"
_FOLLOW, _BLOCK = "app.bsky.graph.follow", "app.bsky.graph.block"
_LIST_ITEM, _LIST_BLOCK = "app.bsky.graph.listitem", "app.bsky.graph.listblock"
_VERIFICATION = "app.bsky.graph.verification"
_PROFILE, _STATUS = "app.bsky.actor.profile", "app.bsky.actor.status"
_CHAT, _NOTIFICATION = "chat.bsky.actor.declaration", "app.bsky.notification.declaration"
_GERM = "com.germnetwork.declaration"

_FEED_TYPES = (
    "FEED_TYPE_UNSPECIFIED",
    "FEED_TYPE_POSTS_AND_AUTHOR_THREADS",
    "FEED_TYPE_POSTS_NO_REPLIES",
    "FEED_TYPE_POSTS_WITH_MEDIA",
    "FEED_TYPE_POSTS_WITH_VIDEO",
)
_THREADS = ((80, 10), (1, 1), (0, 0))
"""(above, below) of threads: more than there is, the nearest, the post alone."""

METHODS_THAT_WRITE = frozenset(
    (
        *("updateNotificationSeen", "updateActorUpstreamStatus"),
        *("takedownActor", "takedownBlob", "takedownRecord", "untakedownActor", "untakedownBlob", "untakedownRecord"),
        *("createActorMute", "deleteActorMute", "clearActorMutes"),
        *("createActorMutelistSubscription", "deleteActorMutelistSubscription", "clearActorMutelistSubscriptions"),
        *("createThreadMute", "deleteThreadMute", "clearThreadMutes"),
    )
)


def _some(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The items in requests of the greatest size."""
    return (items[start : start + MANY] for start in range(0, len(items), MANY))


def _refs(uris: Iterable[str]) -> list[_Request]:
    return [{"uri": uri} for uri in uris]


def _records(collection: str, **more: Any) -> Callable[[Subjects], Iterable[_Request]]:
    """The records of a collection, and one of each other, which the method must not give."""

    def make(it: Subjects) -> Iterable[_Request]:
        others = [uris[0] for name, uris in sorted(it.by_collection.items()) if name != collection]
        return ({"uris": list(uris), **more} for uris in _some(it.of(collection) + others))

    return make


def _of_actor(name: str = "actorDid", **more: Any) -> Callable[[Subjects], Iterable[_Request]]:
    return lambda it: ({name: did, **more} for did in it.actors)


def _of_viewer(**more: Any) -> Callable[[Subjects], Iterable[_Request]]:
    return lambda it: ({"actorDid": did, **more} for did in it.viewers)


def _viewer_and_actors(name: str) -> Callable[[Subjects], Iterable[_Request]]:
    return lambda it: ({"actorDid": did, name: list(some)} for did in it.viewers for some in _some(it.actors))


def _viewer_and(
    name: str, *collections: str, refs: bool = False, **more: Any
) -> Callable[[Subjects], Iterable[_Request]]:
    def make(it: Subjects) -> Iterable[_Request]:
        for some in _some(it.of(*collections)):
            given = _refs(some) if refs else list(some)
            yield from ({"actorDid": did, name: given, **more} for did in it.viewers)

    return make


def _pairs(it: Subjects) -> Iterable[_Request]:
    return ({"actorDid": a, "targetDid": b} for a, b in it.pairs)


def _viewer_and_list(it: Subjects) -> Iterable[_Request]:
    return ({"actorDid": did, "listUri": uri} for did in it.viewers for uri in it.of(LIST))


def _of_liked(it: Subjects) -> Iterable[_Request]:
    return ({"subject": {"uri": uri}, "limit": PAGE} for uri in it.liked)


def _words(it: Subjects) -> Sequence[str]:
    return ("", *it.words)


def _search(it: Subjects) -> Iterable[_Request]:
    return ({"term": word, "limit": PAGE} for word in _words(it))


def _search_v2(it: Subjects) -> Iterable[_Request]:
    return ({"params": {"query": word, "limit": PAGE}} for word in _words(it))


def _search_posts(it: Subjects) -> Iterable[_Request]:
    yield from _search(it)
    yield from ({"term": f"from:{author}", "limit": PAGE} for author in (*it.handles, *it.actors))


def _search_posts_v2(it: Subjects) -> Iterable[_Request]:
    yield from _search_v2(it)
    for author in it.handles:
        yield {"params": {"query": "", "limit": PAGE}, "filters": {"authors": [author]}}


def _suggestions(it: Subjects) -> Iterable[_Request]:
    for did in it.viewers:
        yield {"actorDid": did}
    for viewer, other in it.pairs:
        yield {"actorDid": viewer, "relativeToDid": other}


READS: dict[str, Callable[[Subjects], Iterable[_Request]]] = {
    # Records.
    "getBlockRecords": _records(_BLOCK),
    "getFeedGeneratorRecords": _records(GENERATOR),
    "getFollowRecords": _records(_FOLLOW),
    "getLikeRecords": _records(_LIKE),
    "getListBlockRecords": _records(_LIST_BLOCK),
    "getListItemRecords": _records(_LIST_ITEM),
    "getListRecords": _records(LIST),
    "getPostRecords": _records(POST, includeOpThreadMetadata=True),
    "getProfileRecords": _records(_PROFILE),
    "getActorChatDeclarationRecords": _records(_CHAT),
    "getNotificationDeclarationRecords": _records(_NOTIFICATION),
    "getGermDeclarationRecords": _records(_GERM),
    "getStatusRecords": _records(_STATUS),
    "getRepostRecords": _records(_REPOST),
    "getThreadGateRecords": _records(_THREAD_GATE),
    "getPostgateRecords": _records(_POST_GATE),
    "getLabelerRecords": _records(LABELER),
    "getStarterPackRecords": _records(STARTER_PACK),
    "getVerificationRecords": _records(_VERIFICATION),
    "getSiteStandardRecordsByURI": lambda it: ({"uris": list(some)} for some in _some(it.records)),
    "getSiteStandardRecordsByRef": lambda it: ({"refs": _refs(some)} for some in _some(it.records)),
    # Follows, verifications.
    "getActorFollowsActors": _viewer_and_actors("targetDids"),
    "getFollowers": _of_actor(limit=PAGE),
    "getFollows": _of_actor(limit=PAGE),
    "getFollowsFollowing": _viewer_and_actors("targetDids"),
    "getVerificationsIssued": _of_actor(limit=PAGE),
    "getVerificationsReceived": _of_actor("subjectDid", limit=PAGE),
    # Likes, reposts, quotes.
    "getLikesBySubject": _of_liked,
    "getLikesBySubjectSorted": _of_liked,
    "getKnownLikers": _viewer_and("subjectUris", POST, limit=MANY),
    "getLikesByActorAndSubjects": _viewer_and("refs", POST, GENERATOR, LABELER, refs=True),
    "getActorLikes": _of_actor(limit=PAGE),
    "getRepostsBySubject": _of_liked,
    "getRepostsByActorAndSubjects": _viewer_and("refs", POST, refs=True),
    "getActorReposts": _of_actor(limit=PAGE),
    "getQuotesBySubjectSorted": _of_liked,
    # Counters.
    "getInteractionCounts": lambda it: ({"refs": _refs(some)} for some in _some(it.records)),
    "getCountsForUsers": lambda it: ({"dids": list(some)} for some in _some(it.actors)),
    "getStarterPackCounts": lambda it: ({"refs": _refs(some)} for some in _some(it.of(STARTER_PACK))),
    "getListCounts": lambda it: ({"refs": _refs(some)} for some in _some(it.of(LIST))),
    "getNewUserCountForRange": lambda it: [{"start": "2020-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"}],
    # Accounts.
    "getActors": lambda it: (
        {"dids": list(some), "returnAgeAssuranceForDids": list(some)} for some in _some(it.actors)
    ),
    "getDidsByHandles": lambda it: ({"handles": list(some)} for some in _some(it.handles)),
    "getRelationships": _viewer_and_actors("targetDids"),
    "getBlockExistence": lambda it: ({"pairs": [{"a": a, "b": b} for a, b in some]} for some in _some(it.pairs)),
    "getIdentityByDid": _of_actor("did"),
    "getIdentityByHandle": lambda it: ({"handle": handle} for handle in it.handles),
    "getLatestRev": _of_actor(),
    # Lists.
    "getActorLists": _of_actor(limit=PAGE),
    "getListMembers": lambda it: (
        {"listUri": uri, "limit": PAGE, "viewerDid": viewer}
        for uri in it.of(LIST)
        for viewer in sorted({uri.split("/")[2], *it.viewers[:1]})
    ),
    "getListMembership": _viewer_and("listUris", LIST),
    "getListCount": lambda it: ({"listUri": uri} for uri in it.of(LIST)),
    "getReferencelistoptoutsByActorAndSubjects": _viewer_and("subjectUris", LIST),
    "getListFeed": lambda it: ({"listUri": uri, "limit": PAGE} for uri in it.of(LIST)),
    # Mutes and blocks.
    "getActorMutesActor": _pairs,
    "getMutes": _of_viewer(limit=PAGE),
    "getActorMutesActorViaList": _pairs,
    "getMutelistSubscription": _viewer_and_list,
    "getMutelistSubscriptions": _of_viewer(limit=PAGE),
    "getThreadMutesOnSubjects": _viewer_and("threadRoots", POST),
    "getBidirectionalBlock": _pairs,
    "getBlocks": _of_viewer(limit=PAGE),
    "getBidirectionalBlockViaList": _pairs,
    "getBlocklistSubscription": _viewer_and_list,
    "getBlocklistSubscriptions": _of_viewer(limit=PAGE),
    # Notifications.
    "getNotificationPreferences": lambda it: ({"dids": list(some)} for some in _some(it.viewers)),
    "getNotifications": lambda it: (
        {"actorDid": did, "limit": limit, "priority": priority}
        for did in it.actors
        for limit, priority in ((PAGE, False), (MANY, False), (MANY, True))
    ),
    "getNotificationSeen": _of_viewer(),
    "getUnreadNotificationCount": _of_actor(),
    "getActivitySubscriptionDids": _of_viewer(limit=PAGE),
    "getActivitySubscriptionsByActorAndSubjects": _viewer_and_actors("subjectDids"),
    # Feeds.
    "getActorFeeds": _of_actor(limit=PAGE),
    "getSuggestedFeeds": lambda it: [{"limit": PAGE}],
    "getFeedGeneratorStatus": lambda it: ({"uris": list(some)} for some in _some(it.of(GENERATOR))),
    "getAuthorFeed": lambda it: (
        {"actorDid": did, "limit": PAGE, "feedType": kind} for did in it.actors for kind in _FEED_TYPES
    ),
    "getTimeline": _of_viewer(limit=PAGE),
    "getThread": lambda it: (
        {"postUri": uri, "above": above, "below": below} for uri in it.of(POST) for above, below in _THREADS
    ),
    # Searches.
    "searchFeedGenerators": lambda it: ({"query": word, "limit": MANY} for word in _words(it)),
    "searchFeedGeneratorsV2": _search_v2,
    "searchActors": _search,
    "searchActorsV2": _search_v2,
    "searchActorsTypeahead": lambda it: ({"params": {"query": word, "limit": MANY}} for word in _words(it)),
    "searchPosts": _search_posts,
    "searchPostsV2": _search_posts_v2,
    "searchStarterPacks": _search,
    "searchStarterPacksV2": _search_v2,
    # Suggestions.
    "getFollowSuggestions": _suggestions,
    "getSuggestedEntities": lambda it: [{}],
    # Labels, moderation.
    "getLabels": lambda it: (
        {"subjects": list(some), "issuers": list(it.issuers)} for some in _some((*it.actors, *it.records))
    ),
    "getAllLabelers": lambda it: [{}],
    "getBlobTakedown": lambda it: ({"did": did, "cid": cid} for did, cid in it.cids),
    "getRecordTakedown": lambda it: ({"recordUri": uri} for uri in it.records),
    "getActorTakedown": _of_actor("did"),
    # Starter packs, private data.
    "getActorStarterPacks": _of_actor(limit=PAGE),
    "getBookmarksByActorAndSubjects": _viewer_and("uris", POST),
    "getActorBookmarks": _of_viewer(limit=PAGE),
    "getActorDrafts": _of_viewer(limit=PAGE),
    # Of no database.
    "getSitemapIndex": lambda it: [{}],
    "getSitemapPage": lambda it: [{"bucket": 1}],
    "ping": lambda it: [{}],
}
"""By method: its requests about the subjects."""


def calls(subjects: Subjects) -> list[Call]:
    """Every read about the subjects. What has pages of `PAGE` items is followed to its last page."""
    return [
        Call(method, request, follow=PAGE in (request.get("limit"), request.get("params", {}).get("limit")))
        for method, make in READS.items()
        for request in make(subjects)
    ]


def canonical(call: Call, answer: Answer) -> Any:
    """The answer without what the reference leaves to chance, and with its records as JSON.

    Left to chance are the order of lists that its queries do not order, and the row of those of which they take one. Of
    notifications that have the same time a page shows some: pages are compared by their times, the whole by its rows.
    """
    if answer.error is not None:
        return {"error": answer.error, "message": answer.message, "pages": answer.body}
    if call.method == "getFollowSuggestions":  # a shuffle, whose cursor counts what it has shown
        return sorted(answer.body["dids"])
    if call.method == "getNotifications" and call.follow:
        return [[it["timestamp"] for it in page["notifications"]] for page in answer.body]
    if call.method in _ONE_OF_SEVERAL:
        return {name: bool(value) for name, value in answer.body.items()}
    return _settled(call.method, "", answer.body)


_ONE_OF_SEVERAL = ("getBidirectionalBlock", "getBidirectionalBlockViaList", "getActorMutesActorViaList")
"""Which row is not said; getRelationships and getBlockExistence name the rows of the same pairs."""


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


_SORTED: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("getLabels", "labels"): _as_text,
    ("getSuggestedEntities", "entities"): _as_text,
    ("getPostRecords", "opThreads"): _as_text,
    ("getFollowsFollowing", "dids"): _as_text,
    ("getNotifications", "notifications"): lambda it: (it["timestamp"], it["uri"], it["reason"]),
}
"""By method and field, lists without an order. Notifications have one, by their time alone."""


def _settled(method: str, name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settled(method, key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        settled = [_settled(method, name, inner) for inner in value]
        order = _SORTED.get((method, name))
        return sorted(settled, key=order) if order else settled
    if name in ("record", "labels"):
        return json.loads(base64.b64decode(value))
    return value
