"""The pages of the reference AppView on which what an account writes appears to others."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from appview_pipeline_tests.conformance.reference.reader import Answer, Reader

_FEED, _GRAPH, _ACTOR = "app.bsky.feed.", "app.bsky.graph.", "app.bsky.actor."
_SHOWN_BY: dict[str, tuple[tuple[str, str], ...]] = {
    "app.bsky.feed.post": (
        (_FEED + "getPostThread", "uri"),
        ("app.bsky.unspecced.getPostThreadV2", "anchor"),
        (_FEED + "getQuotes", "uri"),
        (_FEED + "getLikes", "uri"),
        (_FEED + "getRepostedBy", "uri"),
        (_FEED + "getPosts", "uris"),
    ),
    "app.bsky.graph.list": ((_GRAPH + "getList", "list"), (_FEED + "getListFeed", "list")),
    "app.bsky.graph.starterpack": ((_GRAPH + "getStarterPack", "starterPack"), (_GRAPH + "getStarterPacks", "uris")),
}
_OF_AN_ACTOR = (
    *(_ACTOR + "getProfile", _ACTOR + "getProfiles", _FEED + "getAuthorFeed", _FEED + "getActorFeeds"),
    *(_GRAPH + "getFollowers", _GRAPH + "getFollows", _GRAPH + "getKnownFollowers", _GRAPH + "getLists"),
    *(_GRAPH + "getActorStarterPacks", _GRAPH + "getSuggestedFollowsByActor", "app.bsky.labeler.getServices"),
)
_OF_THE_VIEWER = (
    *(_FEED + "getTimeline", "app.bsky.notification.listNotifications", "app.bsky.notification.getUnreadCount"),
    *(_GRAPH + "getBlocks", _GRAPH + "getListBlocks", _ACTOR + "getSuggestions", _FEED + "getSuggestedFeeds"),
)
_SEARCHES = (
    *(_ACTOR + "searchActors", _ACTOR + "searchActorsTypeahead", _GRAPH + "searchStarterPacks", _FEED + "searchPosts"),
)
_NAMES = {_ACTOR + "getProfiles": "actors", "app.bsky.labeler.getServices": "dids"}


class Page(NamedTuple):
    """A query of the API as an account sees it."""

    method: str
    viewer: str | None
    parameters: dict[str, Any]


def pages(actors: Iterable[str], viewers: Iterable[str], uris: Iterable[str], words: Iterable[str]) -> list[Page]:
    """Pages about `actors` and searches for `words`, for each of `viewers` and for nobody; the viewers' own pages.

    Pages about `uris` are for the first viewer only.
    """
    viewers = list(viewers)
    found = [
        Page(method, viewers[0], {parameter: uri})
        for uri in uris
        for method, parameter in _SHOWN_BY.get(uri.split("/")[3], ())
    ]
    for viewer in (*viewers, None):
        for actor in actors:
            found += [Page(method, viewer, {_NAMES.get(method, "actor"): actor}) for method in _OF_AN_ACTOR]
            found.append(Page(_FEED + "getAuthorFeed", viewer, {"actor": actor, "includePins": "true"}))
            found.append(Page("app.bsky.labeler.getServices", viewer, {"dids": actor, "detailed": "true"}))
        found += [Page(method, viewer, {"q": word}) for method in _SEARCHES for word in words]
    found += [Page(method, viewer, {}) for method in _OF_THE_VIEWER for viewer in viewers]
    found += [Page(_FEED + "getActorLikes", viewer, {"actor": viewer}) for viewer in viewers]
    return found


def broken(reader: Reader, wanted: Iterable[Page]) -> list[tuple[Page, Answer]]:
    """The pages that the reference fails to make."""
    wanted = list(wanted)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda page: reader.get(page.method, page.viewer, **page.parameters), wanted)
        return [(page, answer) for page, answer in zip(wanted, answers, strict=True) if answer.status >= 500]
