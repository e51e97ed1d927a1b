"""Generated networks: every read of the reference's data plane answers the same over its indexer's tables and ours.

Networks of different character (conformance/reference/generated_networks.py) go through the pipeline in batches,
and one event at a time through the reference's indexer. What differs has a name in docs/differences.md. Needs
`just reference` (conformance/reference/README.md). Other seeds and larger networks: `compare_networks.py` there.
"""

from __future__ import annotations

import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.compare_networks import NETWORKS, Outcome, compare_network
from appview_pipeline_tests.conformance.reference.generated import Answers, Labels
from appview_pipeline_tests.conformance.reference.oracle import (
    Call,
    Oracle,
    reference_database,
)
from appview_pipeline_tests.conformance.reference.repairs import NAMES
from appview_pipeline_tests.support.tables import Fresh

pytestmark = pytest.mark.slow

SEEDS = range(201, 207)
EVENTS = {"everyday": 1_000, "hostile": 1_000, "lists": 300, "lives": 1_000}
"""Of each of the larger networks of these seeds."""

_POSTS = {"post-edited", "gated-post-edited", "gate-before-post", "own-reply-edited", "quoted-post-deleted"}
SHOWN: dict[str, set[str]] = {
    "everyday": {"post-edited", "quoted-post-deleted", "second-repost", "created-and-deleted"},
    "hostile": _POSTS
    | {"quote-count-by-uri", "notification-once", "counting-duplicate-deleted", "opt-out-promoted", "second-repost"},
    "lists": {"duplicates-deleted", "opt-out-promoted"},
    "lives": _POSTS
    | {"duplicates-deleted", "second-repost", "created-and-deleted", "label-negation-by-cid"}
    | {"account-deleted", "account-returned", "returned-notified", "takedown-kept"},
}
"""By kind of network, the differences that those of `SEEDS` show."""

LIVES = (5, 260)
"""Seed and events of the network in which accounts come, change and go."""


def outcome_of(
    reference: Oracle,
    fresh: Fresh,
    server: EmbeddedPostgres,
    reference_tables: str,
    name: str,
    seed: int,
    events: int,
    reads: bool,
) -> Outcome:
    with fresh() as ours, fresh() as again, reference_database(server, reference_tables) as url:
        network = NETWORKS[name](seed, events)
        return compare_network(reference, network, ours, again, url, reads=reads, reads_again=events >= 1_000)


@pytest.mark.parametrize(
    "name, seed, events, shown",
    [
        ("everyday", 1, 150, set()),
        ("hostile", 5, 160, {"gated-post-edited", "notification-once", "post-edited"}),
        ("lives", *LIVES, {"account-deleted", "account-returned", "duplicates-deleted", "second-repost"}),
    ],
    ids=["everyday", "hostile", "lives"],
)
def test_reads_are_answered_as_by_the_reference(
    reference: Oracle,
    fresh: Fresh,
    server: EmbeddedPostgres,
    reference_tables: str,
    name: str,
    seed: int,
    events: int,
    shown: set[str],
) -> None:
    """But for the differences `shown`, by name. The tables are the same after another arrival, too: in other batches,
    in another order, some events twice."""
    outcome = outcome_of(reference, fresh, server, reference_tables, name, seed, events, True)
    print(outcome)
    assert outcome.holds, str(outcome)
    assert outcome.reads is not None and outcome.reads.asked > 500
    assert outcome.reads.equal > 0.9 * outcome.reads.asked
    assert set(outcome.reads.explained) == shown
    assert outcome.shown.keys() <= SHOWN[name]


def test_lives_has_all_that_can_become_of_accounts() -> None:
    """The instrument: what is compared above."""
    network = NETWORKS["lives"](*LIVES)
    answers = [it for it in network.steps if isinstance(it, Answers)]
    assert None in [document for it in answers for document in it.documents.values()], "a DID is given up"
    statuses = [(did, status) for it in answers for did, status in it.statuses.items()]
    assert {status for _, status in statuses} == {"active", "gone", "takendown"}
    gone = {did for did, status in statuses if status == "gone"}
    assert gone & {did for did, status in statuses if status == "active"}, "an account is deleted and returns"
    calls = {it.method for it in network.steps if isinstance(it, Call)}
    assert calls >= {"takedownActor", "untakedownActor", "takedownRecord", "takedownBlob", "createActorMute"}
    assert {bool(label.get("neg")) for it in network.steps if isinstance(it, Labels) for label in it.labels} == {
        False,
        True,
    }


def test_every_difference_is_shown_by_some_network() -> None:
    """What networks may show is what they do show (the last test here): no expectation is left over."""
    assert SHOWN.keys() == NETWORKS.keys()
    assert set().union(*SHOWN.values()) == NAMES


@pytest.mark.thorough
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks(
    reference: Oracle, fresh: Fresh, server: EmbeddedPostgres, reference_tables: str, name: str, seed: int
) -> None:
    outcome = outcome_of(reference, fresh, server, reference_tables, name, seed, EVENTS[name], seed % 2 == 0)
    assert outcome.holds, str(outcome)
    assert outcome.shown.keys() <= SHOWN[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NETWORKS)
def test_together_they_show_each_difference(
    reference: Oracle, fresh: Fresh, server: EmbeddedPostgres, reference_tables: str, name: str
) -> None:
    """By the tables alone. An expectation that no network meets any more is found here."""
    shown: set[str] = set()
    for seed in SEEDS:
        shown |= outcome_of(reference, fresh, server, reference_tables, name, seed, EVENTS[name], False).shown.keys()
    assert shown == SHOWN[name]
