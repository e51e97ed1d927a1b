"""Every read of the reference's data plane, with subjects of each size: nobody, an ordinary account, the largest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from appview_pipeline_tests.benchmark.reads_world import MIDDLE, Subjects

PAGE = 50
"""Items a page, as apps ask for; `getFeed` and the like ask for 30 to 100."""

WITHOUT_TABLES = frozenset(
    {
        *("getIdentityByDid", "getIdentityByHandle", "getSitemapIndex", "getSitemapPage", "ping"),
        *("getSiteStandardRecordsByURI", "getSiteStandardRecordsByRef"),
        # The service has these and the open-source data plane answers that they are not implemented.
        *("getFeedGeneratorStatus", "getAllLabelers", "getNewUserCountForRange"),
        *("getVerificationsIssued", "getVerificationsReceived"),
    }
)
"""Methods that ask no table."""

WRITES = ("update", "takedown", "untakedown", "create", "delete", "clear")
"""How the names of methods that write begin."""


@dataclass(frozen=True)
class Call:
    """A method of the data plane with its request as JSON; `case` says what it is asked for."""

    method: str
    case: str
    request: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and case."""
        return f"{self.method} {self.case}".strip()


def calls(s: Subjects) -> list[Call]:
    """All calls. `deep` asks for a page in the middle of the thirty days."""
    time_and_cid = f"{int(MIDDLE * 1000)}__bafyrei"
    iso = datetime.fromtimestamp(MIDDLE, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    found: list[Call] = []

    def add(method: str, case: str, **request: Any) -> None:
        found.append(Call(method, case, request))

    def pages(method: str, key: str, asked: Mapping[str, Any], cursor: str = time_and_cid, **more: Any) -> None:
        """A first page for each subject, and a deep one of the last, which is the largest."""
        for case, subject in asked.items():
            add(method, case, **{key: subject}, limit=PAGE, **more)
        add(method, f"{case}, deep", **{key: subject}, limit=PAGE, cursor=cursor, **more)

    def refs(uris: list[str]) -> list[dict[str, str]]:
        return [{"uri": uri} for uri in uris]

    accounts = {"nobody": s.nobody, "ordinary": s.ordinary}
    to_star, to_reader, to_writer = (
        {**accounts, "star": s.star},
        {**accounts, "reader": s.reader},
        {**accounts, "writer": s.writer},
    )
    lists = {"small": s.small_list, "reference": s.reference_list, "long": s.long_list}
    posts = {"nothing": s.nothing, "ordinary": s.post, "known": s.known}

    # Records: hydration asks for many at once.
    for method, collection in (
        ("getBlockRecords", "app.bsky.graph.block"),
        ("getFeedGeneratorRecords", "app.bsky.feed.generator"),
        ("getFollowRecords", "app.bsky.graph.follow"),
        ("getLikeRecords", "app.bsky.feed.like"),
        ("getListBlockRecords", "app.bsky.graph.listblock"),
        ("getListItemRecords", "app.bsky.graph.listitem"),
        ("getListRecords", "app.bsky.graph.list"),
        ("getProfileRecords", "app.bsky.actor.profile"),
        ("getRepostRecords", "app.bsky.feed.repost"),
        ("getThreadGateRecords", "app.bsky.feed.threadgate"),
        ("getPostgateRecords", "app.bsky.feed.postgate"),
        ("getLabelerRecords", "app.bsky.labeler.service"),
        ("getActorChatDeclarationRecords", "chat.bsky.actor.declaration"),
        ("getNotificationDeclarationRecords", "app.bsky.notification.declaration"),
        ("getGermDeclarationRecords", "com.germnetwork.declaration"),
        ("getStarterPackRecords", "app.bsky.graph.starterpack"),
        ("getVerificationRecords", "app.bsky.graph.verification"),
        ("getStatusRecords", "app.bsky.actor.status"),
    ):
        absent = [f"at://{did}/{collection}/self" for did in s.accounts[:PAGE]]
        add(method, f"{PAGE}", uris=s.records.get(collection, absent))
    add("getPostRecords", "1", uris=[s.post])
    add("getPostRecords", "100", uris=s.posts)
    add("getPostRecords", "100 with threads", uris=[*s.posts[:98], s.thread, s.deep], includeOpThreadMetadata=True)

    # Accounts.
    add("getActors", "1", dids=[s.ordinary])
    add("getActors", "100", dids=s.accounts)
    add("getDidsByHandles", "1", handles=[s.handle])
    add("getDidsByHandles", "100, none there", handles=[f"nobody{n}.test" for n in range(100)])
    add("getCountsForUsers", "100", dids=s.accounts)
    add("getLatestRev", "ordinary", actorDid=s.ordinary)
    add("getActorTakedown", "ordinary", did=s.ordinary)
    add("getRecordTakedown", "ordinary", recordUri=s.post)
    add("getBlobTakedown", "nothing", did=s.ordinary, cid="bafkreinothing")
    add("getRelationships", "1", actorDid=s.ordinary, targetDids=[s.star])
    add("getRelationships", "100, reader", actorDid=s.reader, targetDids=s.accounts)
    add("getRelationships", "100, star", actorDid=s.star, targetDids=s.accounts)
    pairs = [{"a": s.reader, "b": did} for did in s.accounts] + [{"a": s.star, "b": did} for did in s.accounts]
    add("getBlockExistence", "200 pairs", pairs=pairs)
    add("getBidirectionalBlock", "ordinary, star", actorDid=s.ordinary, targetDid=s.star)
    add("getBidirectionalBlock", "star, reader", actorDid=s.star, targetDid=s.reader)
    add("getBidirectionalBlockViaList", "ordinary, star", actorDid=s.ordinary, targetDid=s.star)
    add("getBidirectionalBlockViaList", "reader, star", actorDid=s.reader, targetDid=s.star)
    pages("getBlocks", "actorDid", to_reader)
    pages("getBlocklistSubscriptions", "actorDid", to_reader)
    add("getBlocklistSubscription", "reader", actorDid=s.reader, listUri=s.moderation_list)

    # Follows.
    pages("getFollowers", "actorDid", to_star)
    pages("getFollows", "actorDid", to_reader)
    add("getActorFollowsActors", "reader, 100", actorDid=s.reader, targetDids=s.accounts)
    add("getFollowsFollowing", "ordinary, star", actorDid=s.ordinary, targetDids=[s.star])
    add("getFollowsFollowing", "reader, 10", actorDid=s.reader, targetDids=s.accounts[:10])

    # Likes, reposts, quotes, counters.
    for method in ("getLikesBySubject", "getLikesBySubjectSorted", "getRepostsBySubject", "getQuotesBySubjectSorted"):
        pages(method, "subject", {case: {"uri": uri} for case, uri in posts.items()})
    add("getKnownLikers", "reader, known", actorDid=s.reader, subjectUris=[s.known], limit=5)
    add("getKnownLikers", "reader, 30", actorDid=s.reader, subjectUris=s.posts[:30], limit=5)
    add("getLikesByActorAndSubjects", "reader, 100", actorDid=s.reader, refs=refs(s.posts))
    add("getRepostsByActorAndSubjects", "reader, 100", actorDid=s.reader, refs=refs(s.posts))
    pages("getActorLikes", "actorDid", to_reader)
    pages("getActorReposts", "actorDid", to_reader)
    add("getInteractionCounts", "100", refs=refs(s.posts))
    add("getStarterPackCounts", "50", refs=refs(s.packs))
    add("getListCounts", "50", refs=refs(s.lists))

    # Feeds and threads.
    for feed in ("UNSPECIFIED", "POSTS_NO_REPLIES", "POSTS_WITH_MEDIA", "POSTS_WITH_VIDEO", "POSTS_AND_AUTHOR_THREADS"):
        name = feed.lower().replace("_", " ").replace("unspecified", "everything")
        asked = {f"{case}, {name}": did for case, did in to_writer.items()}
        pages("getAuthorFeed", "actorDid", asked, feedType=f"FEED_TYPE_{feed}")
    pages("getTimeline", "actorDid", to_reader)
    pages("getListFeed", "listUri", lists)
    add("getThread", "ordinary", postUri=s.post, above=80, below=10)
    add("getThread", "nothing", postUri=s.nothing, above=80, below=10)
    add("getThread", "known, wide", postUri=s.known, above=80, below=10)
    add("getThread", "deep, from its root", postUri=s.deep, above=80, below=1000)
    add("getThread", "deep, from its end", postUri=s.deepest, above=80, below=10)
    add("getThread", "writer's own", postUri=s.thread, above=80, below=50)

    # Lists, packs, generators.
    pages("getListMembers", "listUri", lists)
    add("getListMembers", "reference, its owner", listUri=s.reference_list, limit=PAGE, viewerDid=s.star)
    add("getListMembership", "star, 50", actorDid=s.star, listUris=s.lists)
    add("getListCount", "long", listUri=s.long_list)
    add("getReferencelistoptoutsByActorAndSubjects", "50", actorDid=s.accounts[3], subjectUris=s.lists)
    pages("getActorLists", "actorDid", to_star)
    pages("getActorStarterPacks", "actorDid", to_star)
    pages("getActorFeeds", "actorDid", to_star)
    add("getSuggestedFeeds", "", limit=PAGE)
    add("getSuggestedEntities", "", limit=PAGE)
    add("getFollowSuggestions", "everybody's", actorDid=s.reader, limit=10)
    add("getFollowSuggestions", "reader, like reader", actorDid=s.ordinary, relativeToDid=s.reader, limit=10)
    add("getFollowSuggestions", "reader, like ordinary", actorDid=s.reader, relativeToDid=s.ordinary, limit=10)

    # Notifications and private data.
    pages("getNotifications", "actorDid", to_star, iso)
    followed = {f"{case}, priority": did for case, did in to_star.items()}
    pages("getNotifications", "actorDid", followed, iso, priority=True)
    for case, did in to_star.items():
        add("getUnreadNotificationCount", case, actorDid=did)
    add("getNotificationSeen", "ordinary", actorDid=s.ordinary)
    add("getNotificationPreferences", "100", dids=s.accounts)
    pages("getMutes", "actorDid", to_reader, f"{int(MIDDLE * 1000)}__did:plc:b")
    add("getActorMutesActor", "reader", actorDid=s.reader, targetDid=s.star)
    add("getActorMutesActorViaList", "reader", actorDid=s.reader, targetDid=s.star)
    add("getMutelistSubscription", "reader", actorDid=s.reader, listUri=s.moderation_list)
    pages("getMutelistSubscriptions", "actorDid", to_reader)
    add("getThreadMutesOnSubjects", "reader, 100", actorDid=s.reader, threadRoots=s.posts)
    pages("getActivitySubscriptionDids", "actorDid", to_reader, "3kz")
    add("getActivitySubscriptionsByActorAndSubjects", "reader, 100", actorDid=s.reader, subjectDids=s.accounts)
    pages("getActorBookmarks", "actorDid", to_reader, "3kz")
    add("getBookmarksByActorAndSubjects", "reader, 100", actorDid=s.reader, uris=s.posts)
    pages("getActorDrafts", "actorDid", to_reader, iso)
    add("getLabels", "100", subjects=s.posts, issuers=s.labelers)

    # Search. Whether a word is rare or in many rows makes the difference.
    for method in ("searchActors", "searchPosts", "searchStarterPacks"):
        common, rare = {"searchActors": ("anna", "writes1234"), "searchPosts": ("bread", "bread 1234567"),
                        "searchStarterPacks": ("Trains", "place 0")}[method]  # fmt: skip
        add(method, "common", term=common, limit=25)
        add(method, "rare", term=rare, limit=25)
        add(method, "common, deep", term=common, limit=25, cursor=time_and_cid)
        add(f"{method}V2", "common", params={"query": common, "limit": 25})
    add("searchActorsTypeahead", "two letters", params={"query": "an", "limit": 10})
    add("searchActorsTypeahead", "a name", params={"query": "annawrites", "limit": 10})
    add("searchPosts", "of one author", term=f"bread from:{s.writer_handle}", limit=25)
    add("searchFeedGenerators", "Trains", query="Trains", limit=25)
    add("searchFeedGeneratorsV2", "Trains", params={"query": "Trains", "limit": 25})
    return found
