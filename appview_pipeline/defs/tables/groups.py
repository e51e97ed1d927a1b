"""The table groups: what each asset stands for, what it is made from, and what it guarantees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from appview_pipeline.indexing.registry import EFFECTS

FIREHOSE_SENSOR, IDENTITY_SENSOR = "firehose_sensor", "identity_sensor"


@dataclass(frozen=True)
class TableGroup:
    """An asset: some tables of schema `bsky` (the first is the main one) and the assets they are derived from.

    `upstream` names those that collections do not declare; the groups of collections whose records have rows in the
    tables are added. `asset_group` is the asset's group in Dagster. `check` is the recount (a file of `sql/check/`)
    that its counters must equal. `sensor` reports its materializations as they happen.
    """

    key: str
    asset_group: str
    tables: tuple[str, ...]
    upstream: tuple[str, ...]
    description: str
    check: str | None = None
    sensor: str = FIREHOSE_SENSOR

    @property
    def collections(self) -> tuple[str, ...] | None:
        """The collections whose records become its rows; none where other groups do, None for every collection."""
        if "record" in self.tables:
            return None
        return tuple(effect.nsid for effect in EFFECTS.in_order if effect.table in self.tables)

    @property
    def compared(self) -> tuple[str, ...]:
        """The collections whose records a rerun compares with its rows."""
        return EFFECTS.derive(self.tables)


_ONE_PER_PAIR = (
    "Of several records of one account with the same subject, the first by rev and record key has the row. The others "
    "are duplicates: they wait in `duplicate_record`, and the next one is promoted when it is deleted."
)

_DECLARED: tuple[TableGroup, ...] = (
    TableGroup(
        key="record",
        asset_group="records",
        tables=("record", "duplicate_record"),
        upstream=("firehose",),
        description=(
            "Every record of the indexed collections as JSON, as it stands in its repository. The newest rev"
            " wins, whatever the order of arrival, and a deleted record stays deleted. All other tables are "
            "derived from it."
        ),
    ),
    TableGroup(
        key="actors",
        asset_group="records",
        tables=("actor", "actor_sync"),
        upstream=("firehose",),
        description=(
            "Accounts (`actor`) with their handles and statuses, and the newest rev seen of their repositories "
            "(`actor_sync`). A new account is a row at once; the identity process then resolves its DID and verifies "
            "its handle in both directions. A handle that is not verified is NULL. `appview-pipeline identity "
            "show` says what is known of an account, and why its handle is not verified."
        ),
        sensor=IDENTITY_SENSOR,
    ),
    TableGroup(
        key="posts",
        asset_group="collections",
        tables=(
            "post",
            "post_embed_image",
            "post_embed_gallery_image",
            "post_embed_external",
            "post_embed_record",
            "post_embed_video",
            "quote",
            "op_thread_reply",
        ),
        upstream=("record", "gates", "follows", "lists"),
        description=(
            "Posts with their embeds and quotes. Replies and quotes are evaluated against root, thread gate "
            "and post gate as of their own rev: gates, follows and list items decide `violatesThreadGate` "
            "and `violatesEmbeddingRules`."
        ),
    ),
    TableGroup(
        key="likes",
        asset_group="collections",
        tables=("like",),
        upstream=("record",),
        description=f"Likes of posts, feed generators, labelers and lists. {_ONE_PER_PAIR}",
    ),
    TableGroup(
        key="reposts",
        asset_group="collections",
        tables=("repost",),
        upstream=("record",),
        description=f"Reposts. {_ONE_PER_PAIR}",
    ),
    TableGroup(
        key="follows",
        asset_group="collections",
        tables=("follow",),
        upstream=("record",),
        description=f"Follows: the social graph. {_ONE_PER_PAIR}",
    ),
    TableGroup(
        key="blocks",
        asset_group="collections",
        tables=("actor_block", "list_block"),
        upstream=("record",),
        description=f"Blocks of accounts and of whole lists. {_ONE_PER_PAIR}",
    ),
    TableGroup(
        key="profiles",
        asset_group="collections",
        tables=("profile",),
        upstream=("record",),
        description=(
            "Profiles: one an account, with display name, description, avatar, pinned post and the starter "
            "pack by which the account joined."
        ),
    ),
    TableGroup(
        key="lists",
        asset_group="collections",
        tables=("list", "list_item", "reference_list_opt_out"),
        upstream=("record",),
        description="Lists, their members, and the accounts that ask not to be shown on them.",
    ),
    TableGroup(
        key="feed_generators",
        asset_group="collections",
        tables=("feed_generator",),
        upstream=("record",),
        description="Feed generators: custom feeds, and the service that computes each.",
    ),
    TableGroup(
        key="starter_packs",
        asset_group="collections",
        tables=("starter_pack",),
        upstream=("record",),
        description="Starter packs.",
    ),
    TableGroup(
        key="labelers",
        asset_group="collections",
        tables=("labeler",),
        upstream=("record",),
        description="Labelers: accounts that offer a labeling service. What their labels mean is in "
        "`pipeline.label_definition`, and follows the same records.",
    ),
    TableGroup(
        key="gates",
        asset_group="collections",
        tables=("thread_gate", "post_gate"),
        upstream=("record",),
        description="Thread gates (who may reply) and post gates (who may quote), one of each a post.",
    ),
    TableGroup(
        key="verifications",
        asset_group="collections",
        tables=("verification",),
        upstream=("record",),
        description=f"Verifications of one account by another. {_ONE_PER_PAIR}",
    ),
    TableGroup(
        key="notifications",
        asset_group="derived",
        tables=("notification",),
        upstream=("starter_packs",),
        description=(
            "Notifications: one row for each account, record and reason, however often the record is "
            "delivered. Deleting the record deletes its notifications. Notifications that depended on "
            "history or private state when they were written are kept, never derived again."
        ),
    ),
    TableGroup(
        key="post_aggregates",
        asset_group="derived",
        tables=("post_agg",),
        upstream=(),
        description=(
            "Counts of likes, reposts, replies and quotes by URI. They move in the transaction of the rows "
            "that they count, and always equal a recount. Replies that violate a thread gate do not count; "
            "quotes count by URI."
        ),
        check="post_aggregates",
    ),
    TableGroup(
        key="profile_aggregates",
        asset_group="derived",
        tables=("profile_agg",),
        upstream=(),
        description=(
            "Counts of followers, follows and posts by account. They move in the transaction of the rows "
            "that they count, and always equal a recount."
        ),
        check="profile_aggregates",
    ),
    TableGroup(
        key="feed_items",
        asset_group="derived",
        tables=("feed_item",),
        upstream=(),
        description="The rows of author feeds and timelines: one for every post and every repost, by its originator.",
    ),
)


def _with_sources(group: TableGroup) -> TableGroup:
    """The group with the groups of those collections upstream that write to its tables, too."""
    sources = [
        source.key
        for source in _DECLARED
        if source.key != group.key and source.collections and any(map(_writes_to(group), source.collections))
    ]
    return replace(group, upstream=tuple(dict.fromkeys((*group.upstream, *sources))))


def _writes_to(group: TableGroup) -> Callable[[str], bool]:
    by_nsid = {effect.nsid: effect for effect in EFFECTS.in_order}

    def writes(nsid: str) -> bool:
        effect = by_nsid[nsid]
        notifies = "notification" in group.tables and effect.notifies is not None
        return notifies or (effect.table not in group.tables and any(map(effect.derives, group.tables)))

    return writes


GROUPS: tuple[TableGroup, ...] = tuple(map(_with_sources, _DECLARED))

BY_KEY: dict[str, TableGroup] = {group.key: group for group in GROUPS}

_GRAPH = {group.key: [key for key in group.upstream if key in BY_KEY] for group in GROUPS}
IN_ORDER: tuple[TableGroup, ...] = tuple(BY_KEY[key] for key in TopologicalSorter(_GRAPH).static_order())
"""Every group after the groups that it is derived from."""

ACTORS = BY_KEY["actors"]
"""The accounts: reported by the identity sensor, whose plots are those of resolution."""
