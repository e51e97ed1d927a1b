"""Labelers that opt out, are removed and come back while their streams are read: at the end nothing is missing."""

from __future__ import annotations

import random
import threading
import time

import pytest

from appview_pipeline.ingest import removal as removal_module
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.labelers import reread
from appview_pipeline.store.labels import rebuild_labels
from appview_pipeline_tests.simulated_network import SimulatedNetwork
from appview_pipeline_tests.support.label_model import LabelModel
from appview_pipeline_tests.support.label_rows import rows_of_wire
from appview_pipeline_tests.support.label_streams import reading
from appview_pipeline_tests.support.tables import one, rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick")]

SECONDS = 10.0
SUBJECTS = [f"at://did:plc:{'b' * 24}/app.bsky.feed.post/{number}" for number in range(30)]
CIDS = ("bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454",)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_came_between_all_that_they_said_is_there(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Three labelers that keep all that they have said. Each opts out with and without a purge, is allowed again, and
    is read again from its beginning, at random, while the job removes what a purge asks for and a rebuild runs."""
    monkeypatch.setattr(removal_module, "LEFT_OVER_CHUNK", 5)
    rng = random.Random(seed)
    settings = Settings(database_url=database.url)
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.02):
            for labeler in labelers:
                more = {"cid": rng.choice(CIDS)} if rng.random() < 0.3 else {}
                neg = {"neg": True} if rng.random() < 0.3 else {}
                labeler.label(rng.choice(SUBJECTS), rng.choice("ab"), **more, **neg)

    def remove() -> None:
        while not stop.wait(0.1):
            assert remove_accounts(settings, database).failed is None

    def rebuild() -> None:
        while not stop.wait(0.3):
            with database.connect("maintenance") as connection:
                rebuild_labels(connection, rng.choice(labelers).did)

    with SimulatedNetwork(seed=seed, accounts=4, labelers=0) as network:
        labelers = [network.labelers.add(keeps_all=True, leap=3) for _ in range(3)]
        with reading(database, network) as it:
            threads = [threading.Thread(target=task) for task in (publish, remove, rebuild)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + SECONDS
            switched = 0
            while time.monotonic() < until:
                did = rng.choice(labelers).did
                act = rng.choice(("forbid", "purge", "allow", "allow", "allow", "reread"))
                if act == "reread":
                    with database.connect("writer") as connection:
                        reread(connection, did)
                elif act == "allow":
                    switched += switch_collection(database, did, forbid=False).changed
                else:
                    switch_collection(database, did, forbid=True, purge=act == "purge")
                time.sleep(rng.random() * 0.4)
            stop.set()
            for thread in threads:
                thread.join()
            for labeler in labelers:
                switch_collection(database, labeler.did, forbid=False)
            it.wait_for_cursor(*labelers, seconds=30)
            assert switched > 2
        model = LabelModel()
        for labeler in labelers:
            for seq, label in labeler.labels.items():
                model.add(rows_of_wire(seq, [label]))
    stored = rows(database.url, "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label")
    assert {(src, uri, cid, val): tuple(row) for src, uri, cid, val, *row in stored} == model.rows()
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event") == model.events
    counts = rows(database.url, "SELECT did, in_effect FROM pipeline.labeler ORDER BY did")
    assert dict(counts) == model.not_negated()
    assert rows(database.url, "SELECT kind FROM pipeline.dead_letter") == []
