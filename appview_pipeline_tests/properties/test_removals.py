"""An account that is removed from any network.

Others have what they would have if the account had deleted every record itself; counters equal a recount, a rerun finds
nothing wrong; and an account that returns has everything again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import AccountState, Change
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.counters import TABLES
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.comparison import but_for_private_state, in_any_order, in_order
from appview_pipeline_tests.properties.delivery import network_changes
from appview_pipeline_tests.properties.networks import NAMES, Network, did_of
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.commits import Commit, Op, host_of
from appview_pipeline_tests.support.frames import rev
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import State, differences, dump

quick = settings(max_examples=6, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate))
LATER = "2026-06-15T15:06:40.000Z"


def in_the_streams_order(network: Network) -> Arrival:
    return Arrival(tuple((number,) for number in range(len(network.commits))))


def remove(index: Rerun, did: str, chunk: int | None = None) -> None:
    index.run(f"INSERT INTO pipeline.removal (did, reason) VALUES ('{did}', 'deleted')")
    summary = remove_accounts(Settings(database_url=index.database.url), index.database, chunk=chunk)
    assert (summary.accounts, summary.failed) == (1, None)


def take_back(index: Rerun, did: str) -> None:
    back = Change(size=0, account=AccountState(did, True, None, LATER, 1), time=LATER, is_event=True)
    feed(index.database, [[back]])
    assert index.rows("SELECT * FROM pipeline.removal") == []


def start_afresh(index: Rerun) -> None:
    """What the triggers leave behind would be there in the next example."""
    index.run("DELETE FROM pipeline.removal")
    index.clean()


def deleting_everything(network: Network, did: str) -> Network:
    """The network, and at its end a commit in which the account deletes all that it has."""
    alive: dict[tuple[str, str], None] = {}
    for commit in network.commits:
        if commit.did == did:
            for op in commit.ops:
                if op.action == "delete":
                    alive.pop((op.collection, op.rkey), None)
                else:
                    alive[op.collection, op.rkey] = None
    if not alive:
        return network
    last = Commit(did, rev(30_000_000), LATER, tuple(Op("delete", *key) for key in alive))
    return replace(network, commits=(*network.commits, last))


def of_others(did: str) -> Callable[[str, dict[str, Any]], bool]:
    """Leaves out what is the account's, and what others said of its posts: these stay as they are, whereas a deletion
    makes earlier quotes and reposts of a post be forgotten."""

    def keep(table: str, row: dict[str, Any]) -> bool:
        if table == "notifications":
            return did not in (row["recipient"], row["author"])
        if table in ("postAgg", "quote", "feed_item", "op_thread_reply"):
            subject = row.get("subject") or row.get("postUri") or row.get("rootUri") or row["uri"]
            return host_of(subject) != did
        return True

    return keep


@quick
@given(data=st.data())
def test_others_have_what_a_deletion_of_every_record_would_leave(rerun_index: Rerun, data: st.DataObject) -> None:
    network, did = data.draw(networks()), did_of(data.draw(st.integers(0, len(NAMES) - 1)))
    whole = deleting_everything(network, did)
    wanted = rerun_index.after(whole, in_the_streams_order(whole))
    rerun_index.feed(network, data.draw(arrivals(network)))
    remove(rerun_index, did, chunk=data.draw(st.sampled_from([1, 2, 1_000])))
    got = dump(rerun_index.connection)
    found = differences(got, wanted, of_others(did))
    assert not found, "\n".join([repr(network), did, *found[:10]])
    assert_nothing_is_left(rerun_index, got, did)
    start_afresh(rerun_index)


def assert_nothing_is_left(index: Rerun, state: State, did: str) -> None:
    assert did not in state["actors"]
    assert [record for record in state["records"] if host_of(record["uri"]) == did] == []
    assert [it for it in state["notifications"] if did in (it["author"], it["recipient"])] == []
    rows = {
        (table, row.get("uri") or row["postUri"])
        for table, rows in state["rows"].items()
        for row in rows
        if host_of(row.get("uri") or row["postUri"]) == did
    }
    assert rows == set()
    for table, key in (("tombstone", "uri"), ("pending", "uri"), ("dependency", "uri"), ("reply_to_other", "uri")):
        assert index.rows(f"SELECT {key} FROM pipeline.{table} WHERE split_part({key}, '/', 3) = '{did}'") == []
    assert index.rows(f"SELECT rev FROM pipeline.repo WHERE did = '{did}'") in ([], [None])
    assert index.rows(f"SELECT uri FROM pipeline.version WHERE split_part(uri, '/', 3) = '{did}' AND rev > 'z'") == []


def without(network: Network, did: str) -> Network:
    """The network as if the account had never been there."""
    return replace(network, commits=tuple(commit for commit in network.commits if commit.did != did))


NOT_BY_HISTORY = ("like", "repost", "follow", "actor_block", "list_item", "list_block", "verification", "profileAgg")
"""Tables of which nothing depends on what other accounts' posts and gates had been."""


@quick
@given(data=st.data())
def test_pairs_and_counters_of_accounts_are_as_if_it_had_never_been(rerun_index: Rerun, data: st.DataObject) -> None:
    network, did = data.draw(networks()), did_of(data.draw(st.integers(0, len(NAMES) - 1)))
    others = without(network, did)
    wanted = rerun_index.after(others, in_the_streams_order(others))
    rerun_index.feed(network, data.draw(arrivals(network)))
    remove(rerun_index, did)
    got = dump(rerun_index.connection)
    pairs = ("like", "repost", "follow")

    def keep(table: str, row: dict[str, Any]) -> bool:
        if table == "notifications":
            return row["reason"] in pairs and did not in (row["author"], row["recipient"])
        return table in NOT_BY_HISTORY

    found = differences(got, wanted, keep)
    found += [
        f"{uri}: {kind}"
        for uri in got["postAgg"].keys() | wanted["postAgg"].keys()
        for kind in ("likeCount", "repostCount")
        if got["postAgg"].get(uri, {}).get(kind, 0) != wanted["postAgg"].get(uri, {}).get(kind, 0)
    ]
    assert not found, "\n".join([repr(network), did, *found[:10]])
    start_afresh(rerun_index)


@quick
@given(data=st.data())
def test_counters_equal_a_recount_and_a_rerun_changes_nothing(rerun_index: Rerun, data: st.DataObject) -> None:
    network, did = data.draw(networks(mutes=False, subscriptions=False)), did_of(data.draw(st.integers(0, 4)))
    rerun_index.feed(network, data.draw(arrivals(network)))
    remove(rerun_index, did)
    for table in TABLES:
        assert recount(rerun_index.database, table, rewrite=False).differing == 0, (repr(network), did)
    before = dump(rerun_index.connection)
    found = rerun_index.rerun()
    # What others said of posts that the account itself had deleted before is not remembered any more.
    said = differences(dump(rerun_index.connection), before, of_others(did))
    assert not said, "\n".join([repr(network), did, str(found), *said[:10]])
    start_afresh(rerun_index)


@quick
@given(data=st.data())
def test_an_account_that_returns_has_everything_again(rerun_index: Rerun, data: st.DataObject) -> None:
    network, did = data.draw(networks(mutes=False, subscriptions=False)), did_of(data.draw(st.integers(0, 4)))
    rerun_index.feed(network, in_the_streams_order(network))
    remove(rerun_index, did)
    take_back(rerun_index, did)
    changes = network_changes(network)
    own = [change for change in changes if change.repo is not None and change.repo.did == did]
    feed(rerun_index.database, batches_of(own, data.draw(st.sampled_from([1, 3, 0]))))
    others = but_for_private_state(network, in_any_order(network))

    def keep(table: str, row: dict[str, Any]) -> bool:
        """Notifications that the account had received do not come again."""
        return others(table, row) and not (table == "notifications" and row["recipient"] == did)

    found = differences(dump(rerun_index.connection), in_order(network), keep)
    assert not found, "\n".join([repr(network), did, *found[:10]])
    start_afresh(rerun_index)
