"""Retention in any network: whatever was there, counters equal a recount, a rerun finds nothing wrong, what is kept is
as it was, and what is delivered again changes nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.retention import apply_retention
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.counters import TABLES
from appview_pipeline_tests.properties.arrivals import arrivals
from appview_pipeline_tests.properties.delivery import network_changes
from appview_pipeline_tests.properties.networks import NAMES, did_of
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump

quick = settings(max_examples=6, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate))

UNTOUCHED = ("profile", "follow", "actor_block", "list", "list_item", "list_block", "feed_generator", "starter_pack",
    "labeler", "verification")  # fmt: skip


@quick
@given(data=st.data())
def test_what_is_kept_is_right_and_nothing_comes_back(rerun_index: Rerun, data: st.DataObject) -> None:
    """Everything in these networks is old; all that one account and those it follows have written is kept."""
    network = data.draw(networks(mutes=False, subscriptions=False))
    protected = did_of(data.draw(st.integers(0, len(NAMES) - 1)))
    options = Settings(database_url=rerun_index.database.url, retention_days=1, retention_protected=(protected,))
    rerun_index.feed(network, data.draw(arrivals(network)))
    rerun_index.run(
        f"INSERT INTO pipeline.repo (did, has_start) VALUES ('{protected}', true) "
        "ON CONFLICT (did) DO UPDATE SET has_start = true"
    )
    before = dump(rerun_index.connection)
    apply_retention(options, rerun_index.database, chunk=data.draw(st.sampled_from([1, 2, 1_000])))
    followed = set(rerun_index.rows(f"SELECT \"subjectDid\" FROM bsky.follow WHERE creator = '{protected}'"))
    kept = followed | {protected}
    for table in ("post", "like", "repost"):
        assert set(rerun_index.rows(f'SELECT creator FROM bsky."{table}"')) <= kept, (repr(network), table)
    assert rerun_index.rows("SELECT uri FROM pipeline.version WHERE rev > 'z'") == []
    after = dump(rerun_index.connection)
    lost = [
        uri
        for record in before["records"]
        if (uri := record["uri"]) not in {it["uri"] for it in after["records"]}
        and (uri.split("/")[2] in kept or uri.split("/")[3] not in EFFECTS.expiring)
    ]
    assert lost == [], repr(network)
    for table in TABLES:
        assert recount(rerun_index.database, table, rewrite=False).differing == 0, repr(network)
    found = differences(after, before, lambda table, row: table in UNTOUCHED)
    assert not found, "\n".join([repr(network), *found[:10]])
    rerun_index.rerun()
    found = differences(dump(rerun_index.connection), after, lambda table, row: True)
    assert not found, "\n".join([repr(network), protected, *found[:10]])
    rerun_index.run("UPDATE pipeline.repo SET chain_from = NULL")
    writer = Writer(rerun_index.database, replace(options), "test")
    for change in network_changes(network):
        writer.write([change], 0.0)
    # An edit of a record that is not there is stored, until the next run.
    edited = {
        f"at://{commit.did}/{op.collection}/{op.rkey}"
        for commit in network.commits
        for op in commit.ops
        if op.action == "update"
    }
    again = [
        uri
        for uri in rerun_index.rows("SELECT uri FROM bsky.record ORDER BY uri")
        if uri.split("/")[3] in EFFECTS.expiring and uri.split("/")[2] not in kept and uri not in edited
    ]
    assert [uri for uri in again if uri not in {it["uri"] for it in after["records"]}] == [], repr(network)
    for table in TABLES:
        assert recount(rerun_index.database, table, rewrite=False).differing == 0, repr(network)
