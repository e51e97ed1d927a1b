"""How the cost of a batch grows with its size, where what it brings belongs together: chains, edits, gates, duplicates.

A `Shape` is a way for n events to belong together: what is in the database before, and the batch that is measured.
Cost is counted in rows that PostgreSQL's plans touched (its own EXPLAIN ANALYZE of every statement, by auto_explain),
which is the same on every machine; `python -m appview_pipeline_tests.benchmark.growth` measures CPU besides.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.protocol import cid
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.commits import (
    FOLLOW,
    GENERATOR,
    LIKE,
    LIST,
    LISTITEM,
    POST,
    POSTGATE,
    REPOST,
    THREADGATE,
    VERIFICATION,
    Commit,
    Op,
)
from appview_pipeline_tests.support.frames import did_of
from appview_pipeline_tests.support.scenarios import change_of, encode

START = 1_750_000_000_000_000
WHEN = "2025-06-15T15:06:40.000Z"
PROFILE_PATH = "app.bsky.actor.profile/self"


@dataclass
class Story:
    """Commits in the order of their revs, and when they arrive: before the measured batch, or in it."""

    before: list[Commit] = field(default_factory=list)
    batch: list[Commit] = field(default_factory=list)
    mutes: list[tuple[str, str]] = field(default_factory=list)
    subscriptions: list[tuple[str, str]] = field(default_factory=list)
    moment: int = 0

    def tid(self) -> str:
        """The next rev."""
        self.moment += 1
        return tid_from_micros(START + self.moment * 1_000_000)

    def commit(self, name: str, *ops: tuple[str, str, dict[str, Any] | None]) -> Commit:
        """The next commit of an account; ops are (action, path, record without `$type`)."""
        made = []
        for action, path, value in ops:
            collection, rkey = path.split("/")
            record = {"$type": collection, **value} if value is not None else None
            named = None if record is None else cid.to_text(cid.cid_for_cbor(encode(record)))
            made.append(Op(action, collection, rkey, named, record))
        return Commit(did_of(name), self.tid(), WHEN, tuple(made))

    def post(
        self,
        name: str,
        rkey: str,
        parent: str | None = None,
        root: str | None = None,
        *,
        action: str = "create",
        **more: Any,
    ) -> Commit:
        """A post, or a reply to `parent` in the thread of `root` (default: the parent)."""
        value: dict[str, Any] = {"text": f"{name} {rkey} {self.moment}", "createdAt": WHEN, **more}
        if parent is not None:
            value["reply"] = {"root": ref(root or parent), "parent": ref(parent)}
        return self.commit(name, (action, f"{POST}/{rkey}", value))


SOME_CID = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"


def ref(uri: str) -> dict[str, str]:
    return {"uri": uri, "cid": SOME_CID}


def uri_of(name: str, path: str) -> str:
    return f"at://{did_of(name)}/{path}"


def post_uri(name: str, rkey: str) -> str:
    return uri_of(name, f"{POST}/{rkey}")


# ---- shapes


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
    """As many as it takes: a repository export is one."""
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


def _flip(story: Story, number: int, collection: str, value: dict[str, Any], name: str) -> Commit:
    path = f"{collection}/f{number // 2}"
    return story.commit(name, ("delete", path, None) if number % 2 else ("create", path, value))


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
        flips.append(_flip(story, number, collection, value, name))
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
    story.batch = [_flip(story, number, FOLLOW, _subject(FOLLOW), "b") for number in range(n)]
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
    """Deleted before they came."""
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
        story.before.append(_flip(story, number, FOLLOW, _subject(FOLLOW), "b"))
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


SHAPES: dict[str, Callable[[int], Story]] = {
    shape.__name__: shape
    for shape in (
        *(chain, chain_of_one_account, chain_reversed, chain_shuffled, chain_in_few_commits, chain_in_one_commit),
        *(chain_waiting_for_its_root, chain_of_late_edits, replies_and_edits, edits_of_an_answered_post),
        *(late_edits_of_an_answered_post, edits_and_replies_in_turn, late_parent_of_an_edited_reply),
        *(edited_reply_answered_in_turn, comings_and_goings_of_an_answered_post, edited_replies_of_one_post),
        *(gate_flips, late_gate_flips, replies_under_a_flipped_gate, gate_and_replies_in_turn, late_follow_flips),
        *(replies_after_follow_flips, late_list_item_flips, replies_between_list_item_flips, quotes),
        *(late_post_gate_flips, quotes_under_a_flipped_post_gate, quotes_of_a_post_that_comes_and_goes, likes),
        *(likes_that_go, duplicates, duplicates_reversed, duplicates_before_older_ones, duplicates_that_go),
        *(edited_duplicates, edits_of_a_like, follows_that_come_and_go, reposts_of_a_post_that_comes_and_goes),
        *(likes_that_change_their_subject, likes_that_come_and_go, late_likes_that_had_gone),
        *(edits_of_an_answered_list, late_edits_of_an_answered_list),
        *(verifications, verifications_that_go, stale_verifications, profile_edits),
        *(posts_for_a_subscriber_who_comes_and_goes, edits_of_a_liked_post_in_a_muted_thread, deletions),
        generators_edited,
    )
}


# ---- measuring


class Measured:
    """A database that measures batches. All batches get the same connection: the pool has no other in use."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.writer = Writer(database, Settings(database_url=database.url), "test")
        self.seq = 0

    def changes(self, commits: Sequence[Commit]) -> list[Change]:
        """The commits as the next events of the stream."""
        changes = [change_of(commit, self.seq + number) for number, commit in enumerate(commits, 1)]
        self.seq += len(commits)
        return changes

    def write_changes(self, changes: Sequence[Change]) -> None:
        """Writes changes as one batch."""
        if changes:
            self.writer.write(changes, time.time())

    def write(self, commits: Sequence[Commit]) -> None:
        """Writes the commits as one batch."""
        self.write_changes(self.changes(commits))

    def prepare(self, story: Story) -> None:
        """Brings the database to where the measured batch begins."""
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            for root, did in story.mutes:
                cursor.execute("INSERT INTO bsky.thread_mute VALUES (%s, %s, %s)", (root, did, WHEN))
            for creator, subject in story.subscriptions:
                cursor.execute(
                    'INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply) '
                    "VALUES (%s, %s, 'k', %s, true, true)",
                    (creator, subject, WHEN),
                )
        # The plans are those that a usual batch had made: they don't know what comes.
        self.write([story.post("z", f"z{number}") for number in range(10)])
        self.write(story.before)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Counts, for the block, the rows that each statement's plan touched, by the statement's first words."""
        rows: Counter[str] = Counter()
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            cursor.execute(
                "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; "
                "SET auto_explain.log_timing = off; SET auto_explain.log_format = json; "
                "SET auto_explain.log_level = notice; SET auto_explain.log_nested_statements = on; "
                "SET client_min_messages = notice"
            )
            connection.notices = notices = _Unbounded()
        yield rows
        with self.database.connect("writer") as connection, connection.cursor() as cursor:
            cursor.execute("SET auto_explain.log_min_duration = -1; SET client_min_messages = warning")
        for notice in notices:
            if "plan:" in notice:
                explained = json.loads(notice[notice.index("{") :])
                rows[_name(explained["Query Text"])] += touched(explained["Plan"])


class _Unbounded(list):  # type: ignore[type-arg]
    """psycopg2 keeps the last fifty notices only, unless it is given something else to append to."""


def _name(query: str) -> str:
    words = query.split('"')
    return words[1].split(",")[0] if query.startswith(("PREPARE", "EXECUTE")) else " ".join(query.split()[:6])


def touched(plan: dict[str, Any]) -> int:
    """Rows that a plan's nodes read, kept or dropped, over all of their loops."""
    removed = sum(value for key, value in plan.items() if key.startswith("Rows Removed"))
    rows = round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    return rows + sum(touched(child) for child in plan.get("Plans", ()))


@dataclass(frozen=True)
class Cost:
    """What the measured batch of a shape cost."""

    events: int
    rows: Counter[str]

    @property
    def total(self) -> int:
        return self.rows.total()


def measure(database: Database, shape: Callable[[int], Story], n: int) -> Cost:
    """Counts the rows touched by a shape's batch in an empty database."""
    measured = Measured(database)
    story = shape(n)
    measured.prepare(story)
    with measured.counting() as rows:
        measured.write(story.batch)
    return Cost(len(story.batch), rows)
