"""A rerun of any network changes nothing where nothing is wrong, and repairs what was broken."""

from __future__ import annotations

import psycopg2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline.ingest.recount import recount
from appview_pipeline.store import counters
from appview_pipeline_tests.properties.arrivals import arrivals
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump

quick = settings(max_examples=30, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate))


@quick
@given(data=st.data())
def test_nothing_changes_where_nothing_is_wrong(rerun_index: Rerun, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, data.draw(st.sampled_from(["stream", "repository", "any"]))))
    rerun_index.feed(network, arrival)
    # Mutes and subscriptions of the past are not those of today.
    rerun_index.run("DELETE FROM bsky.thread_mute", "DELETE FROM bsky.activity_subscription")
    before, tables = rerun_index.digest(), dump(rerun_index.connection)
    found = rerun_index.rerun(chunk=data.draw(st.sampled_from([1, 3, 1_000])))
    said = "\n".join([repr(network), str(arrival), str(found), *differences(dump(rerun_index.connection), tables)])
    assert found.changed == {}, said
    assert rerun_index.digest() == before


ROW = """ctid = (
  SELECT ctid FROM {table} {where} ORDER BY {key}
  OFFSET {pick} % greatest((SELECT count(*) FROM {table} {where}), 1) LIMIT 1)"""
KEYED = {
    "post": (
        "uri",
        ("text = 'something else'", "creator = 'did:plc:nobody'", "\"indexedAt\" = '2020-01-01T00:00:00.000Z'"),
    ),
    '"like"': (
        "uri",
        ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'", "via = 'at://x/y/z'", "cid = 'wrong'"),
    ),
    "repost": ("uri", ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'", "cid = 'wrong'")),
    "follow": ("uri", ("\"subjectDid\" = 'did:plc:nobody'", "cid = 'wrong'")),
    "actor_block": ("uri", ("\"subjectDid\" = 'did:plc:nobody'",)),
    "list": ("uri", ("name = 'another'", "description = 'new'")),
    "list_item": ("uri", ("\"listUri\" = 'at://did:plc:nobody/app.bsky.graph.list/none'",)),
    "list_block": ("uri", ("cid = 'wrong'",)),
    "reference_list_opt_out": ("uri", ("cid = 'wrong'", "creator = 'did:plc:nobody'")),
    "profile": ("uri", ("\"displayName\" = 'another'",)),
    "starter_pack": ("uri", ("name = 'another'",)),
    "verification": ("uri", ("handle = 'another'", "subject = 'did:plc:nobody'")),
    "thread_gate": ("uri", ("cid = 'wrong'",)),
    "post_gate": ("uri", ("creator = 'did:plc:nobody'",)),
    "quote": ("uri", ("subject = 'at://did:plc:nobody/app.bsky.feed.post/none'",)),
    "feed_item": ("uri", ("\"sortAt\" = '2020-01-01T00:00:00.000Z'", "\"postUri\" = 'at://x/y/z'")),
    "post_embed_record": ('"postUri"', ("\"embedCid\" = 'wrong'",)),
    "op_thread_reply": ("uri", ("\"parentUri\" = 'at://x/y/z'", "\"deletedAt\" = '2020-01-01T00:00:00.000Z'")),
    "duplicate_record": ("uri", ("\"duplicateOf\" = 'at://x/y/z'", "cid = 'wrong'")),
}
"""Derived tables, their key, and assignments that make a row of theirs wrong."""

FLAGS = (
    '"violatesThreadGate" = "violatesThreadGate" IS NOT TRUE',
    '"invalidReplyRoot" = "invalidReplyRoot" IS NOT TRUE',
    '"violatesEmbeddingRules" = CASE WHEN "violatesEmbeddingRules" THEN NULL ELSE true END',
    '"hasThreadGate" = CASE WHEN "hasThreadGate" THEN NULL ELSE true END',
    '"hasPostGate" = CASE WHEN "hasPostGate" THEN NULL ELSE true END',
)


def row_of(table: str, pick: int) -> str:
    key = KEYED[table][0]
    where = 'WHERE "deletedAt" IS NULL' if table == "op_thread_reply" else ""
    return ROW.format(table=f"bsky.{table}", where=where, key=key, pick=pick)


@st.composite
def damages(draw: st.DrawFn) -> str:
    """A statement that breaks something."""
    pick = draw(st.integers(0, 30))
    kind = draw(st.sampled_from(("delete", "delete", "alter", "alter", "flag", "count", "bogus like", "bogus repost")))
    if kind == "flag":
        return f"UPDATE bsky.post SET {draw(st.sampled_from(FLAGS))} WHERE {row_of('post', pick)}"
    if kind == "count":
        table, columns = draw(
            st.sampled_from(
                (
                    ("post_agg", ("likeCount", "replyCount", "repostCount", "quoteCount", "bookmarkCount")),
                    ("profile_agg", ("followersCount", "followsCount", "postsCount")),
                )
            )
        )
        column = draw(st.sampled_from(columns))
        row = ROW.format(table=f"bsky.{table}", where="", key='"uri"' if table == "post_agg" else "did", pick=pick)
        return f'UPDATE bsky.{table} SET "{column}" = "{column}" + 3 WHERE {row}'
    if kind.startswith("bogus"):
        table = kind.split()[1]
        return (
            f'INSERT INTO bsky."{table}" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt") '
            f"SELECT 'at://' || creator || '/app.bsky.feed.{table}/bogus{pick}', cid, creator, uri, cid, "
            f'"createdAt", "indexedAt" FROM bsky.post WHERE {row_of("post", pick)} ON CONFLICT DO NOTHING'
        )
    table = draw(st.sampled_from(sorted(KEYED)))
    if kind == "delete":
        return f"DELETE FROM bsky.{table} WHERE {row_of(table, pick)}"
    return f"UPDATE bsky.{table} SET {draw(st.sampled_from(KEYED[table][1]))} WHERE {row_of(table, pick)}"


@settings(quick, max_examples=15)  # each takes a second
@given(data=st.data())
def test_what_was_broken_is_right_again(rerun_index: Rerun, data: st.DataObject) -> None:
    network = data.draw(networks())
    rerun_index.feed(network, data.draw(arrivals(network, "stream")))
    want = dump(rerun_index.connection)
    broken = data.draw(st.lists(damages(), min_size=1, max_size=4))
    for statement in broken:
        try:
            rerun_index.run(statement)
        except psycopg2.IntegrityError:
            rerun_index.connection.rollback()
    damaged = dump(rerun_index.connection)
    # Counters of what no record speaks of any more are found by the recount.
    recounted = [recount(rerun_index.database, table, rewrite=True) for table in counters.TABLES]
    found = [rerun_index.rerun(chunk=data.draw(st.sampled_from([1, 4, 1_000])), orphans=None) for _ in range(2)]
    wrong = differences(dump(rerun_index.connection), want)
    said = "\n".join([repr(network), *broken, *differences(damaged, want), str(found), "", *wrong])
    assert wrong == [], said
    assert found[1].changed == {}, said
    if differences(damaged, want):
        assert found[0].changed or any(it.differing for it in recounted), said
