"""Shapes of threads: chains of replies, edits, gates, quotes, and the relationships that gates ask about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from appview_pipeline_tests.properties.growth_stories import WHEN, Story, flip, post_uri, ref, uri_of
from appview_pipeline_tests.support.commits import (
    FOLLOW,
    LIST,
    LISTITEM,
    POST,
    POSTGATE,
    THREADGATE,
    Commit,
)
from appview_pipeline_tests.support.frames import did_of


def _chain(story: Story, n: int, accounts: int | None = None) -> list[Commit]:
    """A root and n replies, each to the one before."""
    names = [f"a{number % accounts if accounts else number}" for number in range(n + 1)]
    commits = [story.post(names[0], "r0")]
    root = post_uri(names[0], "r0")
    for number in range(1, n + 1):
        parent = post_uri(names[number - 1], f"r{number - 1}")
        commits.append(story.post(names[number], f"r{number}", parent, root))
    return commits


def chain(n: int) -> Story:
    story = Story()
    story.batch = _chain(story, n)
    return story


def chain_of_one_account(n: int) -> Story:
    story = Story()
    story.batch = _chain(story, n, accounts=1)
    return story


def chain_reversed(n: int) -> Story:
    story = chain(n)
    story.batch.reverse()
    return story


def chain_shuffled(n: int) -> Story:
    story = chain(n)
    random.Random(n).shuffle(story.batch)
    return story


def chain_in_few_commits(n: int) -> Story:
    """Two hundred posts a commit."""
    story = Story()
    ops: list[tuple[str, str, dict[str, Any] | None]] = []
    root = post_uri("a", "r0")
    for number in range(n + 1):
        value: dict[str, Any] = {"text": "x", "createdAt": WHEN}
        if number:
            value["reply"] = {"root": ref(root), "parent": ref(post_uri("a", f"r{number - 1}"))}
        ops.append(("create", f"{POST}/r{number}", value))
    story.batch = [story.commit("a", *ops[at : at + 200]) for at in range(0, len(ops), 200)]
    return story


def chain_in_one_commit(n: int) -> Story:
    """All posts in one commit, as in a repository export."""
    story = chain_in_few_commits(n)
    first = story.batch[0]
    story.batch = [Commit(first.did, first.rev, first.time, tuple(op for it in story.batch for op in it.ops))]
    return story


def chain_waiting_for_its_root(n: int) -> Story:
    story = Story()
    root, *rest = _chain(story, n)
    story.before, story.batch = rest, [root]
    return story


def chain_of_late_edits(n: int) -> Story:
    """Every post of a chain was edited before it was answered; the edits come last."""
    story = Story()
    root = post_uri("a0", "r0")
    for number in range(n + 1):
        parent = post_uri(f"a{number - 1}", f"r{number - 1}") if number else None
        story.before.append(story.post(f"a{number}", f"r{number}", parent, root))
        story.batch.append(story.post(f"a{number}", f"r{number}", parent, root, action="update"))
    return story


def _replies(story: Story, n: int, parent: str, root: str | None = None, accounts: int | None = None) -> list[Commit]:
    return [story.post(f"b{i % accounts if accounts else i}", f"x{i}", parent, root) for i in range(n)]


def replies_and_edits(n: int) -> Story:
    """A post, n replies to it, n edits of it, all in one batch."""
    story = Story()
    first, replies = [story.post("a", "p")], _replies(story, n, post_uri("a", "p"))
    story.batch = first + replies + [story.post("a", "p", action="update") for _ in range(n)]
    return story


def edits_of_an_answered_post(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p"), *_replies(story, n, post_uri("a", "p"))]
    story.batch = [story.post("a", "p", action="update") for _ in range(n)]
    return story


def late_edits_of_an_answered_post(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    story.batch = [story.post("a", "p", action="update") for _ in range(n)]
    story.before += _replies(story, n, post_uri("a", "p"))
    return story


def edits_and_replies_in_turn(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    for number in range(n):
        story.batch.append(story.post("a", "p", action="update"))
        story.before.append(story.post(f"b{number}", f"x{number}", post_uri("a", "p")))
    return story


def late_parent_of_an_edited_reply(n: int) -> Story:
    """A reply with n states and n replies below; what it answers comes last."""
    story = Story()
    root = post_uri("a", "p")
    story.batch = [story.post("a", "p")]
    story.before = [story.post("b", "q", root)]
    story.before += [story.post("b", "q", root, action="update") for _ in range(n)]
    story.before += [story.post(f"c{i}", f"x{i}", post_uri("b", "q"), root) for i in range(n)]
    return story


def edited_reply_answered_in_turn(n: int) -> Story:
    story = Story()
    root = post_uri("a", "p")
    story.batch = [story.post("a", "p")]
    story.before = [story.post("b", "q", root)]
    for i in range(n):
        story.before.append(story.post(f"c{i}", f"x{i}", post_uri("b", "q"), root))
        story.before.append(story.post("b", "q", root, action="update"))
    return story


def comings_and_goings_of_an_answered_post(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p"), *_replies(story, n, post_uri("a", "p"))]
    for _ in range(n // 2):
        story.batch.append(story.commit("a", ("delete", f"{POST}/p", None)))
        story.batch.append(story.post("a", "p"))
    return story


def edited_replies_of_one_post(n: int) -> Story:
    """n edits of one reply, in a batch with n other replies to the same post."""
    story = Story()
    root = post_uri("a", "p")
    story.before = [story.post("a", "p"), story.post("b", "q", root)]
    story.batch = _replies(story, n, root) + [story.post("b", "q", root, action="update") for _ in range(n)]
    return story


def _gate(story: Story, number: int, rules: Sequence[dict[str, Any]] | None = None, action: str = "update") -> Commit:
    mention = [{"$type": f"{THREADGATE}#mentionRule"}]
    allow = rules if rules is not None else mention * (number % 2)
    hidden = [post_uri(f"b{i}", f"x{i}") for i in range(3)]
    value = {"post": post_uri("a", "p"), "allow": allow, "hiddenReplies": hidden, "createdAt": WHEN}
    return story.commit("a", (action, f"{THREADGATE}/p", value))


def gate_flips(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p"), *_replies(story, n, post_uri("a", "p"))]
    story.batch = [_gate(story, number) for number in range(n)]
    return story


def late_gate_flips(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    for number in range(n):
        story.batch.append(_gate(story, number))
        story.before.append(story.post(f"b{number}", f"x{number}", post_uri("a", "p")))
    return story


def replies_under_a_flipped_gate(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p"), *(_gate(story, number) for number in range(n))]
    story.batch = _replies(story, n, post_uri("a", "p"))
    return story


def gate_and_replies_in_turn(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    for number in range(n):
        story.batch.append(_gate(story, number))
        story.batch.append(story.post(f"b{number}", f"x{number}", post_uri("a", "p")))
    return story


def _flips(n: int, collection: str, late: bool, replies_first: bool) -> Story:
    """n follows (or list items) come and go; n replies of one account depend on them."""
    story = Story()
    if collection == FOLLOW:
        rule: dict[str, Any] = {"$type": f"{THREADGATE}#followerRule"}
        value, name = {"subject": did_of("a"), "createdAt": WHEN}, "b0"
    else:
        rule = {"$type": f"{THREADGATE}#listRule", "list": uri_of("a", f"{LIST}/l")}
        value, name = {"list": uri_of("a", f"{LIST}/l"), "subject": did_of("b0"), "createdAt": WHEN}, "a"
    story.before = [story.post("a", "p"), _gate(story, 0, [rule])]
    flips, replies = [], []
    for number in range(n):
        flips.append(flip(story, number, collection, value, name))
        if late:
            replies.append(story.post("b0", f"x{number}", post_uri("a", "p")))
    if not late:
        replies = _replies(story, n, post_uri("a", "p"), accounts=1)
    if replies_first:
        story.before += replies
        story.batch = flips
    else:
        story.before += flips
        story.batch = replies
    return story


def late_follow_flips(n: int) -> Story:
    return _flips(n, FOLLOW, late=True, replies_first=True)


def replies_after_follow_flips(n: int) -> Story:
    return _flips(n, FOLLOW, late=False, replies_first=False)


def late_list_item_flips(n: int) -> Story:
    return _flips(n, LISTITEM, late=True, replies_first=True)


def replies_between_list_item_flips(n: int) -> Story:
    return _flips(n, LISTITEM, late=True, replies_first=False)


def _quote(story: Story, number: int) -> Commit:
    embed = {"$type": "app.bsky.embed.record", "record": ref(post_uri("a", "p"))}
    return story.post(f"b{number}", f"q{number}", embed=embed)


def _post_gate(story: Story, number: int) -> Commit:
    rules = [{"$type": f"{POSTGATE}#disableRule"}] * (number % 2)
    value = {"post": post_uri("a", "p"), "embeddingRules": rules, "createdAt": WHEN}
    return story.commit("a", ("update", f"{POSTGATE}/p", value))


def quotes(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    story.batch = [_quote(story, number) for number in range(n)]
    return story


def late_post_gate_flips(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p")]
    for number in range(n):
        story.batch.append(_post_gate(story, number))
        story.before.append(_quote(story, number))
    return story


def quotes_under_a_flipped_post_gate(n: int) -> Story:
    story = Story()
    story.before = [story.post("a", "p"), *(_post_gate(story, number) for number in range(n))]
    story.batch = [_quote(story, number) for number in range(n)]
    return story


def quotes_of_a_post_that_comes_and_goes(n: int) -> Story:
    story = Story()
    story.batch = [story.post("a", "p")]
    story.before = [_quote(story, number) for number in range(n)]
    for number in range(n):
        story.batch.append(
            story.commit("a", ("delete", f"{POST}/p", None)) if number % 2 == 0 else story.post("a", "p")
        )
    return story
