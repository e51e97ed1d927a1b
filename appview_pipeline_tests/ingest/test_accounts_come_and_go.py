"""Accounts that are deleted, return, opt out and in, all at once: beside two writers and the job that removes them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable

from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.settings import Settings
from appview_pipeline.store.accounts import PdsStatus, save_statuses
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Transient
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, post
from appview_pipeline_tests.support.tables import one, rows

CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
SECONDS = 3.0
SWITCHES = ("forbid_data_collection(%s)", "forbid_data_collection(%s, true)", "allow_data_collection(%s)")


class Crowd:
    """Three accounts that like and answer each other; one of them only watches the others come and go."""

    def __init__(self, database: Database) -> None:
        self.database, self.stream, self.making = database, Stream(), threading.Lock()
        self.people = [Person(self.stream, name) for name in ("ann", "bob", "cid")]
        self.unsteady = [self.people[0].did, self.people[2].did]
        self.posts = [person.uri("app.bsky.feed.post/first") for person in self.people]
        index(database, *(person.commit(post("first", "x")) for person in self.people))

    def frames(self, key: str) -> list[bytes]:
        """What the accounts write, with events and a broken record now and then."""
        made = []
        for person in self.people:
            subject = {"uri": random.choice(self.posts), "cid": CID}
            like = create(f"app.bsky.feed.like/{key}", {"subject": subject, "createdAt": WHEN})
            made.append(person.commit(like, post(key, "x", reply={"root": subject, "parent": subject})))
            if random.random() < 0.2:
                made.append(person.commit_blocks(("create", f"app.bsky.feed.post/{key}broken", b"\xff")))
        did = random.choice(self.unsteady)
        made.append(self.stream.account(did, active=random.random() < 0.5, status="deleted"))
        return [*made, self.stream.frame("#identity", {"did": random.choice(self.unsteady)})]

    def write(self, key: str) -> None:
        with self.making:
            frames = self.frames(key)
        index(self.database, *frames)

    def answer(self, _: str) -> None:
        said = random.choice(["gone", "active", "deleted", None])
        with (
            contextlib.suppress(Transient),  # the identity process tries again
            self.database.connect("writer") as connection,
        ):
            save_statuses(connection, [PdsStatus(did, said, is_final=True) for did in self.unsteady])
        time.sleep(0.02)

    def switch(self, _: str) -> None:
        rows(self.database.url, f"SELECT pipeline.{random.choice(SWITCHES)}", random.choice(self.unsteady))
        time.sleep(0.03)

    def remove(self, _: str) -> None:
        assert remove_accounts(Settings(database_url=self.database.url), self.database, chunk=3).failed is None
        time.sleep(0.02)


def test_whatever_happens_at_once_nobody_fails_and_all_is_right_in_the_end(database: Database) -> None:
    crowd = Crowd(database)
    until, failures = time.monotonic() + SECONDS, []

    def repeat(name: str, do: Callable[[str], None]) -> None:
        number = 0
        while time.monotonic() < until:
            number += 1
            try:
                do(f"{name}{number}")
            except Exception as error:
                failures.append(f"{name}: {error!r}")

    work = {"w": crowd.write, "v": crowd.write, "a": crowd.answer, "s": crowd.switch, "r": crowd.remove}
    threads = [threading.Thread(target=repeat, args=it) for it in work.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for did in crowd.unsteady:
        rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", did)
    crowd.remove("")
    index(database, *crowd.frames("last"))
    assert rows(database.url, "SELECT DISTINCT did FROM bsky.record") == [(crowd.people[1].did,)]
    for table in ("bsky.actor", "pipeline.backfill_queue", "pipeline.gap", "pipeline.dead_letter"):
        assert one(database.url, f"SELECT count(*) FROM {table} WHERE did = ANY (%s)", crowd.unsteady) == 0, table
    for counters in TABLES:
        assert recount(database, counters, rewrite=False).differing == 0
    assert rerun_collections(database, DERIVED_COLLECTIONS).changed == {}
