"""Every read of the reference's data plane answers over our database as over the reference's own.

Both databases get the same input: ours through the pipeline, the reference's through its own indexer, one event at a
time. An answer that differs is explained by a named row of docs/differences.md, or the test fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from appview_pipeline.store.database_url import parse_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.compare import Bench, compare_corpus, compare_scenario
from appview_pipeline_tests.conformance.reference.differences import (
    Comparison,
    Difference,
    canonical_answers,
    compare,
    execute,
    names,
)
from appview_pipeline_tests.conformance.reference.expected import QUOTES_ARE_COUNTED_BY_URI
from appview_pipeline_tests.conformance.reference.inputs import Identities, both, index_both
from appview_pipeline_tests.conformance.reference.oracle import Call, Oracle
from appview_pipeline_tests.conformance.reference.other_state import add_other_state
from appview_pipeline_tests.conformance.reference.reads import METHODS_THAT_WRITE, READS, calls
from appview_pipeline_tests.conformance.reference.small_world import document, small_world
from appview_pipeline_tests.conformance.reference.subjects import (
    GENERATOR,
    LABELER,
    LIST,
    POST,
    STARTER_PACK,
    Subjects,
    subjects_of,
)
from appview_pipeline_tests.support.database import run_sql
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create
from appview_pipeline_tests.support.scenarios import load
from appview_pipeline_tests.support.tables import fresh_database

pytestmark = pytest.mark.slow

CORPUS_OTHERS = 10
"""Accounts of the corpus that nothing but their name is known of: the command compares all of them."""

WITHOUT_ANSWER = frozenset(
    (
        *("getFeedGeneratorStatus", "getAllLabelers", "getNewUserCountForRange"),
        *("getVerificationsIssued", "getVerificationsReceived"),
        *("getSiteStandardRecordsByURI", "getSiteStandardRecordsByRef", "getSitemapPage", "ping"),
    )
)
"""Reads that the open-source data plane answers with an error or with nothing, whatever its database holds."""

IGNORED = {
    "getActors": {"skipCacheForDids"},
    "getDidsByHandles": {"lookupUnidirectional"},
    "getFollowSuggestions": {"limit"},  # the only one that is read: how many of a shuffle are shown
    "getFollowers": {"sort"},
    "getFollows": {"sort"},
    "getInteractionCounts": {"skipCacheForDids"},
    "getListFeed": {"excludeReplies", "excludeReposts", "excludeQuotes"},
    "getPostRecords": {"processDynamicTagsForView", "viewerDid"},
    "getSitemapIndex": {"type"},
    "getSitemapPage": {"type", "date"},
    "getSuggestedEntities": {"limit"},
    "getSuggestedFeeds": {"actorDid"},
    "getTimeline": {"excludeReplies", "excludeReposts", "excludeQuotes"},
    "searchPostsV2": {
        *("sort", "exclude", "since", "until", "allTime", "hasMedia", "hasVideo", "replyParentUri", "threadRootUri"),
        *("excludeReplies", "repliesOnly", "following", "queryLanguage"),
    },
}
"""By method, fields of its request that no call sets: the open-source data plane does not read them."""

BROKEN = {
    "a like too many": 'UPDATE post_agg SET "likeCount" = "likeCount" + 1 WHERE "likeCount" > 0',
    "a reply too few": 'UPDATE post_agg SET "replyCount" = "replyCount" - 1 WHERE "replyCount" > 0',
    "a quote not counted": 'UPDATE post_agg SET "quoteCount" = 0 WHERE "quoteCount" > 0',
    "a follower too many": 'UPDATE profile_agg SET "followersCount" = "followersCount" + 1',
    "a post not counted": 'UPDATE profile_agg SET "postsCount" = "postsCount" - 1',
    "a notification missing": "DELETE FROM notification WHERE reason = 'reply'",
    "a notification of another reason": "UPDATE notification SET reason = 'quote' WHERE reason = 'like'",
    "a notification at another time": "UPDATE notification SET \"sortAt\" = '2025-06-14T00:00:00.000Z' "
    "WHERE reason = 'follow'",
    "a feed item too many": 'INSERT INTO feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") '
    'SELECT uri || \'x\', cid, type, "postUri", "originatorDid", "sortAt" FROM feed_item LIMIT 1',
    "a feed item missing": "DELETE FROM feed_item WHERE type = 'repost'",
    "a gate's flag unset": 'UPDATE post SET "hasThreadGate" = NULL WHERE "hasThreadGate"',
    "a violation unset": 'UPDATE post SET "violatesThreadGate" = NULL WHERE "violatesThreadGate"',
    "a post gate's flag unset": 'UPDATE post SET "hasPostGate" = NULL WHERE "hasPostGate"',
    "a handle changed": "UPDATE actor SET handle = 'x' || handle WHERE handle LIKE 'ann%'",
    "a handle lost": "UPDATE actor SET handle = NULL WHERE handle LIKE 'bob%'",
    "an account deactivated": "UPDATE actor SET \"upstreamStatus\" = 'deactivated' WHERE handle LIKE 'cal%'",
    "a label negated": "UPDATE label SET neg = NOT neg WHERE val = 'spam'",
    "a record's text changed": "UPDATE record SET json = replace(json, 'a first post', 'another') "
    "WHERE strpos(json, 'a first post') > 0",
    "a record at another time": "UPDATE record SET \"indexedAt\" = '2025-06-14T00:00:00.000Z' WHERE uri LIKE '%/root'",
    "a member missing": "DELETE FROM list_item",
    "an opt-out missing": "DELETE FROM reference_list_opt_out",
    "a block missing": "DELETE FROM actor_block",
    "a block list missing": "DELETE FROM list_block",
    "a verification missing": "DELETE FROM verification",
    "a labeler missing": "DELETE FROM labeler",
    "a quote missing": "DELETE FROM quote",
    "a reply of the thread's author missing": "DELETE FROM op_thread_reply",
    "a starter pack renamed": "UPDATE starter_pack SET name = 'x'",
    "an older rev": "UPDATE actor_sync SET \"repoRev\" = '2222222222222'",
}
"""Ways in which a database of ours could be wrong."""


@pytest.fixture(scope="module")
def bench(server: EmbeddedPostgres, template_database: str, reference: Oracle, reference_tables: str) -> Bench:
    return Bench(reference, server, (reference_tables, template_database))


def test_every_method_is_asked_or_writes(bench: Bench) -> None:
    methods = bench.oracle.methods()
    assert READS.keys() | METHODS_THAT_WRITE == methods.keys()
    assert READS.keys().isdisjoint(METHODS_THAT_WRITE)


def test_every_field_of_the_requests_is_set_or_ignored(bench: Bench) -> None:
    subjects = Subjects(
        actors=["did:plc:a"],
        records=[f"at://did:plc:a/{name}/a" for name in (POST, GENERATOR, LABELER, LIST, STARTER_PACK)],
        viewers=["did:plc:a"],
        pairs=[("did:plc:a", "did:plc:b")],
        handles=["a.example"],
        words=["a"],
        issuers=["did:plc:b"],
        cids=[("did:plc:a", "a")],
    )
    methods = bench.oracle.methods()
    left = {name: set(methods[name]).difference(*make(subjects)) - {"cursor"} for name, make in READS.items()}
    assert {name: fields for name, fields in left.items() if fields} == IGNORED


def test_corpus(bench: Bench, conformance: Path) -> None:
    found = compare_corpus(bench, conformance, others=CORPUS_OTHERS)
    assert found.holds, str(found)
    assert found.explained.keys() == {"unseen-update"}


def test_scenarios(bench: Bench, conformance: Path) -> None:
    found: dict[str, Comparison] = {}
    for scenario in load(conformance):
        for checkpoint, comparison in compare_scenario(bench, scenario):
            found[f"{scenario.id}, {checkpoint}"] = comparison
    failed = [f"{name}: {it}" for name, it in found.items() if not it.holds]
    assert not failed, "\n".join(failed)
    assert len(found) >= 60


def test_every_read_has_an_answer_and_finds_what_is_wrong(bench: Bench) -> None:
    frames, identities = small_world()
    with both(bench.oracle, bench.server, bench.templates) as made:
        index_both(bench.oracle, made, frames, identities)
        assert made.refused == []
        subjects = subjects_of(made.urls, made.records)
        for url in made.urls:
            add_other_state(url, subjects)
        asked = calls(subjects)
        # The quotes of this world name a CID that is nobody's.
        found = compare(bench.oracle, "theirs", "ours", asked, [QUOTES_ARE_COUNTED_BY_URI])
        assert found.holds, str(found)
        assert READS.keys() - found.answered == WITHOUT_ANSWER

        # A difference that is expected and does not occur is found, too.
        absent = compare(
            bench.oracle,
            "theirs",
            "ours",
            asked,
            [Difference("older-rev", ("UPDATE actor_sync SET did = did WHERE false",))],
        )
        assert not absent.holds and absent.unequal == []

        name = parse_url(made.urls[1]).database
        made.ours.close()
        bench.oracle.close("ours")
        run_sql(bench.server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        right = canonical_answers(bench.oracle, "theirs", asked)
        unfound = []
        for fault, statement in BROKEN.items():
            with fresh_database(bench.server, str(name)) as broken:
                assert execute(broken.url, statement, {}) > 0, f"{fault} changes nothing"
                bench.oracle.open("broken", broken.url)
                if canonical_answers(bench.oracle, "broken", asked) == right:
                    unfound.append(fault)
                bench.oracle.close("broken")
        assert unfound == []


def test_two_lists_with_one_member_fail_on_the_reference_too(bench: Bench) -> None:
    """docs/differences.md, "Faults that stay": one account blocks two lists, another mutes both."""
    stream = Stream()
    ann, bob, cal = people = [Person(stream, name) for name in ("ann", "bob", "cal")]
    lists = [ann.uri(f"app.bsky.graph.list/{name}") for name in ("one", "two")]
    purpose = "app.bsky.graph.defs#modlist"
    frames = [it.commit(create("app.bsky.actor.profile/self", {"createdAt": WHEN})) for it in people]
    for uri in lists:
        key, member = uri[-3:], {"list": uri, "subject": cal.did, "createdAt": WHEN}
        frames.append(
            ann.commit(create(f"app.bsky.graph.list/{key}", {"name": key, "purpose": purpose, "createdAt": WHEN}))
        )
        frames.append(ann.commit(create(f"app.bsky.graph.listitem/{key}", member)))
        frames.append(bob.commit(create(f"app.bsky.graph.listblock/{key}", {"subject": uri, "createdAt": WHEN})))
    identities = Identities(documents={it.did: document(it, "nobody") for it in people}, handles={})
    asked = [
        Call("getRelationships", {"actorDid": bob.did, "targetDids": [cal.did]}),
        Call("getRelationships", {"actorDid": cal.did, "targetDids": [bob.did]}),
        Call("getBlockExistence", {"pairs": [{"a": bob.did, "b": cal.did}]}),
        Call("getRelationships", {"actorDid": ann.did, "targetDids": [cal.did]}),
    ]

    def failing(name: str) -> list[bool]:
        return [it.error is not None for it in bench.oracle.ask(name, asked)]

    with both(bench.oracle, bench.server, bench.templates) as made:
        for number, (uri, some) in enumerate(zip(lists, (frames[:6], frames[6:]), strict=True)):
            index_both(bench.oracle, made, some, identities)
            for name in ("theirs", "ours"):
                bench.oracle.run(name, "createActorMutelistSubscription", actorDid=ann.did, subjectUri=uri)
                assert failing(name) == [number == 1] * 4
        assert made.refused == []


def test_a_difference_has_a_row_in_the_documents() -> None:
    assert len(names()) == len(set(names())) > 80
    with pytest.raises(ValueError, match="no-such-row"):
        Difference("no-such-row", ())
