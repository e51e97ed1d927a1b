"""Every read of the reference's data plane uses an index of ours; an index that goes is missed.

On few rows, while the planner is told that there are many (`MANY_TIMES`) and that it must not read a table from end
to end where an index is of use. `python -m appview_pipeline_tests.benchmark.reads` looks at a million records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.store.database_url import libpq_url
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.reads_calls import WITHOUT_TABLES, WRITES, calls
from appview_pipeline_tests.benchmark.reads_plans import SEARCH_PATH, SETTINGS, Plan, drop_index, explained, rendered
from appview_pipeline_tests.benchmark.reads_process import DataPlane
from appview_pipeline_tests.benchmark.reads_world import fill, subjects
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.tables import Fresh

pytestmark = pytest.mark.slow

RECORDS = 20_000
MANY_TIMES = 100

SMALL = frozenset({"labeler", "feed_generator", "suggested_feed", "suggested_follow", "tagged_suggestion"})
"""Tables that stay small, or that a search by name reads: from end to end on the reference's index set, too."""

IN_ORDER = {
    "feed_item_cursor_idx": ("getTimeline reader",),
    "post_order_by_idx": ("getListFeed", "searchPosts"),
    "repost_order_by_idx": ("getRepostsBySubject known",),
    "post_embed_image_pkey": ("getAuthorFeed",),
    "post_embed_gallery_image_pkey": ("getAuthorFeed",),
    "post_embed_video_pkey": ("getAuthorFeed",),
}
"""Indexes that a read goes through from one end until its page is full, or once for all of its rows."""

NEEDED = {
    "activity_subscription_pkey": "getActivitySubscriptionDids reader",
    "actor_block_unique_subject": "getBlocks reader",
    "actor_handle_tgrm_idx": "searchActorsTypeahead a name",
    "actor_pkey": "getFollows reader",
    "actor_state_pkey": "getNotificationSeen ordinary",
    "actor_sync_pkey": "getLatestRev ordinary",
    "bookmark_pkey": "getActorBookmarks reader",
    "bookmark_unique_uri_creator": "getBookmarksByActorAndSubjects reader, 100",
    "draft_creator_updated_at_key_idx": "getActorDrafts reader",
    "feed_generator_creator_index": "getActorFeeds ordinary",
    "feed_item_cursor_idx": "getTimeline reader",
    "feed_item_originator_cursor_idx": "getAuthorFeed ordinary, posts with media",
    "follow_creator_cursor_idx": "getFollows reader",
    "follow_subject_cursor_idx": "getFollowers star",
    "follow_unique_subject": "getFollowsFollowing reader, 10",
    "like_creator_cursor_idx": "getActorLikes ordinary",
    "like_subject_sort_at_creator_idx": "getLikesBySubject known",
    "list_block_unique_subject": "getBlocklistSubscription reader",
    "list_creator_idx": "getActorLists ordinary",
    "list_item_subject_idx": "getActorMutesActorViaList reader",
    "list_item_unique_subject_in_list": "getListMembers small",
    "list_mute_pkey": "getMutelistSubscriptions ordinary",
    "list_pkey": "getBlocklistSubscriptions reader",
    "mute_pkey": "getActorMutesActor reader",
    "notification_author_idx": "getNotifications star, priority",
    "notification_did_sortat_idx": "getNotifications star",
    "op_thread_reply_pkey": "getPostRecords 100 with threads",
    "post_agg_pkey": "getInteractionCounts 100",
    "post_embed_gallery_image_pkey": "getAuthorFeed ordinary, posts with media",
    "post_embed_image_pkey": "getAuthorFeed ordinary, posts with media",
    "post_embed_video_pkey": "getAuthorFeed ordinary, posts with video",
    "post_order_by_idx": "getListFeed long",
    "post_pkey": "getThread ordinary",
    "post_reply_parent_idx": "getThread ordinary",
    "private_data_pkey": "getNotificationPreferences 100",
    "profile_agg_pkey": "getFollowSuggestions reader, like ordinary",
    "profile_starter_pack_joined_idx": "getStarterPackCounts 50",
    "quote_subject_cursor_idx": "getQuotesBySubjectSorted known",
    "record_pkey": "getNotifications star",
    "reference_list_opt_out_unique_subject": "getListFeed reference",
    "repost_order_by_idx": "getRepostsBySubject known",
    "repost_subject_idx": "getRepostsBySubject ordinary",
    "repost_unique_subject": "getActorReposts ordinary",
    "starter_pack_creator_order_by_idx": "getActorStarterPacks ordinary",
    "starter_pack_name_tgrm_idx": "searchStarterPacks rare",
    "thread_mute_pkey": "getThreadMutesOnSubjects reader, 100",
}
"""Indexes that reads can't do without, each with such a read. Where another index would nearly do, it is not
here: actor_handle_key, actor_block_subjectdid_idx, like_unique_subject, label_uri_index, post_creator_cursor_idx."""

WORSE = 3
"""How many times as much the planner takes the read to cost without its index, at least."""


@dataclass(frozen=True)
class World:
    """A filled database, the data plane's methods, and the statements that each call sends, with their values."""

    connection: Connection
    methods: list[str]
    statements: Mapping[str, list[str]]

    def plans(self, call: str) -> list[Plan]:
        """The plans of a call's statements, as the catalog is now."""
        return [explained(self.connection, statement) for statement in self.statements[call]]


@pytest.fixture(scope="module")
def world(fresh: Fresh, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with fresh() as database, closing(psycopg2.connect(libpq_url(database.url))) as connection:
        fill(libpq_url(database.url), corpus(400, small=True), RECORDS)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
            cursor.execute(
                "UPDATE pg_class SET reltuples = reltuples * %s WHERE relnamespace = 'bsky'::regnamespace",
                (MANY_TIMES,),
            )
            cursor.execute(
                f"{SEARCH_PATH}; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
            )
        wanted = calls(subjects(libpq_url(database.url)))
        log = tmp_path_factory.mktemp("reads") / "log"
        with DataPlane(packages, {"ours": database.url}, log) as plane, connection.cursor() as cursor:
            statements = {}
            for call in wanted:
                answered = plane.call("ours", call, statements=True)
                assert answered.error is None, f"{call.name}: {answered.error}"
                statements[call.name] = [rendered(text, values, cursor) for text, values in answered.statements]
            yield World(connection, plane.methods, statements)


def test_every_method_of_the_data_plane_is_asked(world: World) -> None:
    asked = {call.partition(" ")[0] for call in world.statements}
    writes = {method for method in world.methods if method.startswith(WRITES)}
    assert asked | writes | WITHOUT_TABLES == set(world.methods)
    assert not [call for call, statements in world.statements.items() if not statements]


def test_every_read_enters_its_tables_by_an_index(world: World) -> None:
    read = {
        (call, access.table, access.index or "none")
        for call in world.statements
        for plan in world.plans(call)
        for access in plan.accesses
        if not access.condition
    }
    unexpected = {
        (call, table, index)
        for call, table, index in read
        if table not in SMALL and not call.startswith(IN_ORDER.get(index, ("none",)))
    }
    assert not unexpected


def test_a_read_misses_an_index_that_goes(world: World) -> None:
    """Each index is dropped in a transaction that is rolled back: then its read costs several times as much."""
    missed = {}
    world.connection.autocommit = False
    with world.connection.cursor() as cursor:
        for index, call in NEEDED.items():
            before = world.plans(call)
            assert any(index in plan.indexes for plan in before), f"{call} does not use {index}"
            drop_index(cursor, index)
            missed[index] = sum(plan.cost for plan in world.plans(call)) / sum(plan.cost for plan in before)
            world.connection.rollback()
    world.connection.autocommit = True
    assert not {index: times for index, times in missed.items() if times < WORSE}


def test_the_appview_connects_with_the_settings_that_plans_are_judged_by() -> None:
    program = (CHECKOUT / "docker" / "appview" / "environment.mjs").read_text()
    role = (CHECKOUT / "docker" / "appview" / "role.sql").read_text()
    for name, value in SETTINGS.items():
        assert f"-c {name}={value}" in program
        assert f"SET {name} = {value};" in role.replace("'", "")
