"""The effects of the collections: what their records do to the database, and the order in which they do it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NaturalKey:
    """The columns of which a collection's table holds one record each, there and in its staging table."""

    columns: tuple[str, str]
    stage_columns: tuple[str, str]


@dataclass(frozen=True)
class Effect:
    """What the records of one collection do: a file of sql/apply/ and its staging tables.

    Of the file's statements `remove` runs for records that changed or went, `add` for staged rows, then `follows` for
    the rows that were added, and `always` at the end of every batch in which the collection has events. `is_evaluated`:
    evaluating others changes its rows too, so they are written under the lock of thread.sql (else two writers, one with
    the row and one with the lock, would wait for each other).
    """

    collection: str
    file: str
    table: str
    stages: tuple[str, ...]
    follows: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    natural_key: NaturalKey | None = None
    is_evaluated: bool = False


VERIFICATION = "app.bsky.graph.verification"
PAIRS = frozenset(("app.bsky.feed.like", "app.bsky.feed.repost", "app.bsky.graph.follow"))
"""Collections whose notifications a history of several records decides (sql/apply/told_pair.sql)."""
TIMED = PAIRS | {VERIFICATION}
"""Collections of which past states keep the time that their notifications have."""

AFFECTED = ("affected_below", "affected_in_thread", "affected_by_facts")
"""Statements of thread.sql that find the posts that events affect."""

EFFECTS: tuple[Effect, ...] = (
    Effect(
        "app.bsky.feed.post",
        "post",
        "post",
        (
            "stage_post",
            "stage_post_image",
            "stage_post_gallery_image",
            "stage_post_external",
            "stage_post_video",
            "stage_post_record",
            "stage_post_mention",
        ),
        follows=("feed", "count", "op_thread", "add_embeds", "add_quotes"),
        is_evaluated=True,
    ),
    Effect(
        "app.bsky.feed.like",
        "like",
        "like",
        ("stage_like",),
        follows=("count", "notify"),
        natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    ),
    Effect(
        "app.bsky.feed.repost",
        "repost",
        "repost",
        ("stage_repost",),
        follows=("feed", "count", "notify"),
        natural_key=NaturalKey(("creator", "subject"), ("creator", "subject")),
    ),
    Effect(
        "app.bsky.graph.follow",
        "follow",
        "follow",
        ("stage_follow",),
        follows=("count", "notify"),
        natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
    ),
    Effect(
        "app.bsky.graph.block",
        "block",
        "actor_block",
        ("stage_block",),
        natural_key=NaturalKey(("creator", "subjectDid"), ("creator", "subject_did")),
    ),
    Effect("app.bsky.actor.profile", "profile", "profile", ("stage_profile",), always=("joined",)),
    Effect("app.bsky.graph.list", "list", "list", ("stage_list",)),
    Effect(
        "app.bsky.graph.listitem",
        "listitem",
        "list_item",
        ("stage_listitem",),
        natural_key=NaturalKey(("listUri", "subjectDid"), ("list_uri", "subject_did")),
    ),
    Effect(
        "app.bsky.graph.listblock",
        "listblock",
        "list_block",
        ("stage_listblock",),
        natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
    ),
    Effect(
        "app.bsky.graph.referencelistoptout",
        "reference_list_opt_out",
        "reference_list_opt_out",
        ("stage_reference_list_opt_out",),
        natural_key=NaturalKey(("creator", "subjectUri"), ("creator", "subject_uri")),
    ),
    Effect("app.bsky.feed.generator", "generator", "feed_generator", ("stage_generator",)),
    Effect("app.bsky.graph.starterpack", "starterpack", "starter_pack", ("stage_starterpack",)),
    Effect("app.bsky.labeler.service", "labeler", "labeler", ("stage_labeler",)),
    Effect(
        "app.bsky.feed.threadgate",
        "threadgate",
        "thread_gate",
        ("stage_threadgate",),
        follows=("flag",),
        always=("unflag",),
    ),
    Effect(
        "app.bsky.feed.postgate", "postgate", "post_gate", ("stage_postgate",), follows=("flag",), always=("unflag",)
    ),
    Effect(
        VERIFICATION,
        "verification",
        "verification",
        ("stage_verification",),
        always=("tell",),
        natural_key=NaturalKey(("subject", "creator"), ("subject", "creator")),
    ),
)
"""The effects in the order in which they run, and so in which their rows are locked, everywhere: those that are
evaluated after all others."""


WRITES: dict[tuple[str, str], str] = {
    ("repo", "last_seen"): "actor_sync",
    ("repo", "actors"): "actor",
    ("account", "actors"): "actor",
    ("post", "feed"): "feed_item",
    ("post", "op_thread"): "op_thread_reply",
    ("post", "add_quotes"): "quote",
    ("repost", "feed"): "feed_item",
    ("counters", "posts"): "post_agg",
    ("counters", "profiles"): "profile_agg",
}
"""Tables of schema bsky that statements besides a collection's `remove` and `add` write; reports count their rows."""
