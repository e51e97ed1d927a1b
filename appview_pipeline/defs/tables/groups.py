"""The families of tables: what each asset stands for, what it is made from, and what it promises."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter

from appview_pipeline.indexing.registry import EFFECTS


@dataclass(frozen=True)
class Family:
    """An asset: some tables of schema `bsky` (the first is the main one) and the families they are derived from.

    `check` is the recount (a file of `sql/check/`) that its counters must equal.
    """

    key: str
    group: str
    tables: tuple[str, ...]
    upstream: tuple[str, ...]
    description: str
    check: str | None = None

    @property
    def collections(self) -> tuple[str, ...] | None:
        """The collections whose records become its rows; empty for what is derived from other families, None for every
        collection."""
        if "record" in self.tables:
            return None
        return tuple(effect.nsid for effect in EFFECTS.in_order if effect.table in self.tables)

    @property
    def compared(self) -> tuple[str, ...]:
        """The collections whose records a rerun compares with its rows."""
        return EFFECTS.derive(self.tables)


_ONE_PER_PAIR = (
    "Of several by one account of one subject, the first by rev and record key counts and has the row; the others wait "
    "in `duplicate_record` and move up when it is deleted."
)

FAMILIES: tuple[Family, ...] = (
    Family(
        "record",
        "records",
        ("record", "duplicate_record"),
        ("firehose",),
        "Every record of the indexed collections as JSON, as it stands in its repository: the newest rev wins, "
        "whatever the order of arrival, and a deleted record stays deleted. All other tables are derived from it.",
    ),
    Family(
        "actors",
        "records",
        ("actor", "actor_sync"),
        ("firehose",),
        "Accounts (`actor`) and the last rev seen of their repositories (`actor_sync`).",
    ),
    Family(
        "posts",
        "collections",
        (
            "post",
            "post_embed_image",
            "post_embed_gallery_image",
            "post_embed_external",
            "post_embed_record",
            "post_embed_video",
            "quote",
            "op_thread_reply",
        ),
        ("record", "gates", "follows", "lists"),
        "Posts with their embeds and quotes. Replies and quotes are judged against root, thread gate and post gate as "
        "of their own rev: gates, follows and list items decide `violatesThreadGate` and `violatesEmbeddingRules`.",
    ),
    Family(
        "likes",
        "collections",
        ("like",),
        ("record",),
        f"Likes of posts, feed generators, labelers and lists. {_ONE_PER_PAIR}",
    ),
    Family(
        "reposts",
        "collections",
        ("repost",),
        ("record",),
        f"Reposts. {_ONE_PER_PAIR}",
    ),
    Family(
        "follows",
        "collections",
        ("follow",),
        ("record",),
        f"Follows: the social graph. {_ONE_PER_PAIR}",
    ),
    Family(
        "blocks",
        "collections",
        ("actor_block", "list_block"),
        ("record",),
        f"Blocks of accounts and of whole lists. {_ONE_PER_PAIR}",
    ),
    Family(
        "profiles",
        "collections",
        ("profile",),
        ("record",),
        "Profiles: one an account, with display name, description, avatar, pinned post and the starter pack it joined "
        "by.",
    ),
    Family(
        "lists",
        "collections",
        ("list", "list_item", "reference_list_opt_out"),
        ("record",),
        "Lists, who is on them, and who asks not to be shown on them.",
    ),
    Family(
        "feed_generators",
        "collections",
        ("feed_generator",),
        ("record",),
        "Feed generators: custom feeds and the service that computes each.",
    ),
    Family(
        "starter_packs",
        "collections",
        ("starter_pack",),
        ("record",),
        "Starter packs.",
    ),
    Family(
        "labelers",
        "collections",
        ("labeler",),
        ("record",),
        "Labelers: accounts that offer a labeling service.",
    ),
    Family(
        "gates",
        "collections",
        ("thread_gate", "post_gate"),
        ("record",),
        "Thread gates (who may reply) and post gates (who may quote), one a post each.",
    ),
    Family(
        "verifications",
        "collections",
        ("verification",),
        ("record",),
        f"Verifications of one account by another. {_ONE_PER_PAIR}",
    ),
    Family(
        "notifications",
        "derived",
        ("notification",),
        ("posts", "likes", "reposts", "follows", "verifications", "profiles", "starter_packs"),
        "Notifications: one row for each account, record and reason, however often the record is delivered; it goes "
        "when its record goes. Those that depended on history or private state when they were made are kept, never "
        "re-derived.",
    ),
    Family(
        "post_aggregates",
        "derived",
        ("post_agg",),
        ("likes", "reposts", "posts"),
        "Counts of likes, reposts, replies and quotes by URI. They move in the transaction of the rows that they "
        "count, and always equal a recount. Replies that violate a thread gate don't count; quotes count by URI.",
        check="post_aggregates",
    ),
    Family(
        "profile_aggregates",
        "derived",
        ("profile_agg",),
        ("follows", "posts"),
        "Counts of followers, follows and posts by account. They move in the transaction of the rows that they "
        "count, and always equal a recount.",
        check="profile_aggregates",
    ),
    Family(
        "feed_items",
        "derived",
        ("feed_item",),
        ("posts", "reposts"),
        "What author feeds and timelines read: a row for every post and every repost, by its originator.",
    ),
)

BY_KEY: dict[str, Family] = {family.key: family for family in FAMILIES}

_GRAPH = {family.key: [key for key in family.upstream if key in BY_KEY] for family in FAMILIES}
IN_ORDER: tuple[Family, ...] = tuple(BY_KEY[key] for key in TopologicalSorter(_GRAPH).static_order())
"""Every family after those it is derived from."""
