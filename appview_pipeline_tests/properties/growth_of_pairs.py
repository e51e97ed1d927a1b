"""Shapes of records about one other account or post: likes, follows, verifications, profiles; most are duplicates."""

from __future__ import annotations

from typing import Any

from appview_pipeline_tests.properties.growth_stories import PROFILE_PATH, WHEN, Story, flip, post_uri, ref, uri_of
from appview_pipeline_tests.support.commits import (
    FOLLOW,
    GENERATOR,
    LIKE,
    LIST,
    POST,
    REPOST,
    VERIFICATION,
    Commit,
)
from appview_pipeline_tests.support.frames import did_of


def _subject(collection: str) -> dict[str, Any]:
    if collection == FOLLOW:
        return {"subject": did_of("a"), "createdAt": WHEN}
    return {"subject": ref(post_uri("a", "p")), "createdAt": WHEN}


def likes(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    story.batch = [story.commit(f"b{i}", ("create", f"{LIKE}/l", _subject(LIKE))) for i in range(n)]
    return story


def likes_that_go(n: int) -> Story:
    story = likes(n)
    story.before += story.batch
    story.batch = [story.commit(f"b{i}", ("delete", f"{LIKE}/l", None)) for i in range(n)]
    return story


def duplicates(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    story.batch = [story.commit("b", ("create", f"{LIKE}/l{i}", _subject(LIKE))) for i in range(n)]
    return story


def duplicates_reversed(n: int) -> Story:
    story = duplicates(n)
    story.batch.reverse()
    return story


def duplicates_before_older_ones(n: int) -> Story:
    story = duplicates(2 * n)
    story.before += story.batch[n:]
    story.batch = story.batch[:n]
    return story


def duplicates_that_go(n: int) -> Story:
    story = duplicates(n)
    story.before += story.batch
    story.batch = [story.commit("b", ("delete", f"{LIKE}/l{i}", None)) for i in range(n)]
    return story


def edited_duplicates(n: int) -> Story:
    story = duplicates(n)
    story.before += story.batch
    story.batch = [story.commit("b", ("update", f"{LIKE}/l{i}", _subject(LIKE))) for i in range(n)]
    return story


def edits_of_a_like(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    story.batch = [story.commit("b", ("update", f"{LIKE}/l", _subject(LIKE))) for _ in range(n)]
    return story


def _other_subject() -> dict[str, Any]:
    return {"subject": ref(post_uri("a", "q")), "createdAt": WHEN}


def likes_that_change_their_subject(n: int) -> Story:
    """n likes of one post by one account, each edited to be of another one and back."""
    story = duplicates(n)
    story.before += story.batch
    turns = (_other_subject(), _subject(LIKE))
    story.batch = [story.commit("b", ("update", f"{LIKE}/l{i}", said)) for i in range(n) for said in turns]
    return story


def likes_that_come_and_go(n: int) -> Story:
    """n likes of one post by one account, each taken back before the next."""
    story = Story()
    story.before = [story.post("a", "p")]
    for i in range(n):
        story.batch.append(story.commit("b", ("create", f"{LIKE}/l{i}", _subject(LIKE))))
        story.batch.append(story.commit("b", ("delete", f"{LIKE}/l{i}", None)))
    return story


def late_likes_that_had_gone(n: int) -> Story:
    story = likes_that_come_and_go(n)
    story.before += story.batch[1::2]
    story.batch = story.batch[::2]
    return story


def _list(story: Story) -> Commit:
    listed = {"name": f"l{story.moment}", "purpose": "app.bsky.graph.defs#curatelist", "createdAt": WHEN}
    return story.commit("a", ("update", f"{LIST}/l", listed))


def edits_of_an_answered_list(n: int) -> Story:
    story = Story()
    answered = uri_of("a", f"{LIST}/l")
    for i in range(n):
        story.batch += [_list(story), story.post(f"b{i}", "r", answered)]
    return story


def late_edits_of_an_answered_list(n: int) -> Story:
    story = edits_of_an_answered_list(n)
    story.before = story.batch[1::2]
    story.batch = story.batch[::2]
    return story


def follows_that_come_and_go(n: int) -> Story:
    story = Story()
    story.batch = [flip(story, number, FOLLOW, _subject(FOLLOW), "b") for number in range(n)]
    return story


def reposts_of_a_post_that_comes_and_goes(n: int) -> Story:
    story = Story()
    story.batch = [story.post("a", "p")]
    story.before = [story.commit(f"b{i}", ("create", f"{REPOST}/l", _subject(REPOST))) for i in range(n)]
    for number in range(n):
        story.batch.append(
            story.commit("a", ("delete", f"{POST}/p", None)) if number % 2 == 0 else story.post("a", "p")
        )
    return story


def _verification(story: Story, number: int) -> Commit:
    value = {"subject": did_of("a"), "handle": "a.example", "displayName": "a", "createdAt": WHEN}
    return story.commit("b", ("create", f"{VERIFICATION}/v{number}", value))


def verifications(n: int) -> Story:
    story = Story()
    story.batch = [_verification(story, number) for number in range(n)]
    return story


def verifications_that_go(n: int) -> Story:
    story = verifications(n)
    story.before = story.batch
    story.batch = [story.commit("b", ("delete", f"{VERIFICATION}/v{i}", None)) for i in range(n)]
    return story


def stale_verifications(n: int) -> Story:
    """Each verification arrives after its deletion."""
    story = verifications_that_go(n)
    story.before, story.batch = story.batch, story.before
    return story


def profile_edits(n: int) -> Story:
    story = Story()
    pack = ref(uri_of("a", "app.bsky.graph.starterpack/s"))
    for number in range(n):
        value = {"displayName": str(number), "joinedViaStarterPack": pack}
        gone = number % 3 == 2
        story.batch.append(
            story.commit("b", ("delete", PROFILE_PATH, None) if gone else ("update", PROFILE_PATH, value))
        )
    return story


def posts_for_a_subscriber_who_comes_and_goes(n: int) -> Story:
    story = Story(subscriptions=[(did_of("b"), did_of("a"))])
    for number in range(n):
        story.before.append(flip(story, number, FOLLOW, _subject(FOLLOW), "b"))
        story.batch.append(story.post("a", f"p{number}"))
    return story


def edits_of_a_liked_post_in_a_muted_thread(n: int) -> Story:
    story = Story(mutes=[(post_uri("a", "p"), did_of("a"))])
    story.before = [story.post("a", "p")]
    story.before += [story.commit(f"b{i}", ("create", f"{LIKE}/l", _subject(LIKE))) for i in range(n)]
    story.batch = [story.post("a", "p", action="update") for _ in range(n)]
    return story


def deletions(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", f"p{i}") for i in range(n)]
    story.batch = [story.commit("a", ("delete", f"{POST}/p{i}", None)) for i in range(n)]
    return story


def generators_edited(n: int) -> Story:
    story = Story()
    value = {"did": "did:web:f.example", "displayName": "f", "createdAt": WHEN}
    story.batch = [story.commit("a", ("update", f"{GENERATOR}/f{i % 7}", value)) for i in range(n)]
    return story
