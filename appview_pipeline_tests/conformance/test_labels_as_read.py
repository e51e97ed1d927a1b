"""Labels as readers see them: the published reference AppView over a database with labels that we applied.

Needs `just reference` (conformance/reference/README.md). It shows the labels of the labelers that a request
names in `atproto-accept-labelers`. They have to be those that `pipeline.label_in_effect` has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.conformance.reference.reader import Reader, serving
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, did_of, post
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import fresh_database, replayed_frames, rows

pytestmark = pytest.mark.slow

POST = "app.bsky.feed.post"
PROFILE, SERVICE = "app.bsky.actor.profile/self", "app.bsky.labeler.service/self"
OLD_CID = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454"
LATER, LATEST = "2025-06-16T00:00:00.000Z", "2025-06-17T00:00:00.000Z"
PAST, FUTURE = "2025-07-01T00:00:00Z", "2999-01-01T00:00:00+02:00"
NOBODY = did_of("a labeler that is not indexed")


def self_labels(*values: str) -> dict[str, Any]:
    return {"labels": {"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": value} for value in values]}}


def service(*values: str) -> Write:
    """The record of a labeler that defines what its values mean."""
    meant = [
        {
            "identifier": value,
            "severity": "inform",
            "blurs": "none",
            "defaultSetting": "warn",
            "locales": [{"lang": "en", "name": value.title(), "description": f"About {value}"}],
        }
        for value in values
    ]
    policies = {"labelValues": list(values), "labelValueDefinitions": meant}
    return create(SERVICE, {"policies": policies, "createdAt": WHEN})


@dataclass
class World:
    """Ann, who wrote posts, and two labelers."""

    ann: Person
    mod: Person
    other: Person
    database: Database
    reader: Reader

    def labels_of(self, subject: str) -> set[tuple[str, str]]:
        """(src, val) of the labels in effect that the database has of a subject, those by its author included."""
        return set(rows(self.database.url, "SELECT src, val FROM pipeline.label_in_effect WHERE uri = %s", subject))

    def asking(self, labelers: str | None) -> Reader:
        return replace(self.reader, labelers=labelers)

    def posts(self, labelers: str | None, *keys: str) -> dict[str, set[tuple[str, str]]]:
        """The posts that are shown, with (src, val) of their labels."""
        uris = [self.ann.uri(f"{POST}/{key}") for key in keys]
        answer = self.asking(labelers).get("app.bsky.feed.getPosts", uris=uris)
        assert answer.status == 200, answer
        return {it["uri"].split("/")[4]: shown(it) for it in answer.body["posts"]}


def shown(view: dict[str, Any]) -> set[tuple[str, str]]:
    """(src, val) of a view's labels, each of which has to be shown once."""
    found = [(label["src"], label["val"]) for label in view["labels"]]
    assert len(found) == len(set(found))
    return set(found)


def said(ann: Person, mod: Person, other: Person) -> list[LabelRow]:
    """What the labelers say, in no order."""
    a, b, c = (ann.uri(f"{POST}/{key}") for key in "abc")
    return [
        label_row(mod.did, a, "spam"),
        label_row(mod.did, a, "spam", cid=OLD_CID, cts=LATER),
        label_row(other.did, a, "spam"),
        # Taken back: by another cid, by none, and given again since.
        label_row(mod.did, a, "gone", cid=OLD_CID),
        label_row(mod.did, a, "gone", neg=True, cts=LATER),
        label_row(mod.did, a, "gone-too"),
        label_row(mod.did, a, "gone-too", cid=OLD_CID, neg=True, cts=LATER),
        label_row(mod.did, a, "again", cts=LATEST),
        label_row(mod.did, a, "again", neg=True, cts=LATER),
        label_row(mod.did, a, "again"),
        # Ended, not ended yet, and at the bounds of what a label may state: no reader may fail at that.
        label_row(mod.did, a, "ended", exp=PAST),
        label_row(mod.did, a, "limited", exp=FUTURE),
        label_row(mod.did, a, "lasting", exp="9999-12-31T23:59:59.999999Z"),
        label_row(mod.did, a, "year-1", cts="0001-01-01T00:00:00Z", exp="0001-01-01T00:00:00.000001Z"),
        # Once without an end, and then with one that has passed.
        label_row(mod.did, a, "renewed"),
        label_row(mod.did, a, "renewed", cts=LATER, exp=PAST),
        label_row(mod.did, a, "x" * 128),
        label_row(NOBODY, a, "of-nobody"),
        label_row(mod.did, b, "!hide"),
        label_row(mod.did, c, "!takedown"),
        label_row(mod.did, ann.did, "an-account"),
        label_row(mod.did, ann.uri(PROFILE), "a-profile"),
        label_row(other.did, ann.did, "rude", neg=True, cts=LATER),
        label_row(other.did, ann.did, "rude"),
        label_row(other.did, mod.did, "a-labeler"),
    ]


@pytest.fixture(scope="module")
def world(
    server: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory, packages: Path
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("reference")
    with fresh_database(server, template_database) as database:
        stream = Stream()
        ann, mod, other = (Person(stream, name) for name in ("ann", "mod", "other"))
        profile = create(PROFILE, {"displayName": "Ann", "createdAt": WHEN, **self_labels("!no-unauthenticated-x")})
        frames = [
            ann.commit(profile, post("a", "a", **self_labels("nudity")), post("b", "b"), post("c", "c")),
            *(it.commit(create(PROFILE, {"displayName": "A labeler"}), service("spam")) for it in (mod, other)),
        ]
        replayed_frames(database, folder, frames)
        rows(database.url, "UPDATE bsky.actor SET handle = right(did, 8) || '.test'")
        labels = said(ann, mod, other)
        apply_rows(database, labels[::2])
        apply_rows(database, labels[1::2])
        with serving(packages, database.url, folder / "reference.log") as reader:
            yield World(ann, mod, other, database, reader)


def test_posts_have_the_labels_that_are_in_effect(world: World) -> None:
    own = (world.ann.did, "nudity")
    by_mod = {"spam", "again", "limited", "lasting", "x" * 128}
    by_other = {"spam"}
    want = {own, *((world.mod.did, value) for value in by_mod), *((world.other.did, value) for value in by_other)}
    both = f"{world.mod.did}, {world.other.did}"
    assert world.posts(both, "a") == {"a": want}
    # The database says the same; of a labeler that is not indexed readers show nothing.
    assert world.labels_of(world.ann.uri(f"{POST}/a")) == want | {(NOBODY, "of-nobody")}
    assert world.posts(f"{both}, {NOBODY}", "a") == {"a": want}
    assert world.posts(world.other.did, "a") == {"a": {own, (world.other.did, "spam")}}
    assert world.posts(None, "a") == {"a": {own}}, "no labeler by default"


def test_what_is_taken_down_is_left_out_where_the_request_says_so(world: World) -> None:
    assert world.posts(world.mod.did, "b", "c") == {
        "b": {(world.mod.did, "!hide")},
        "c": {(world.mod.did, "!takedown")},
    }
    assert world.posts(f"{world.mod.did};redact", "b", "c") == {"b": {(world.mod.did, "!hide")}}
    assert world.posts(f"{world.other.did};redact", "b", "c") == {"b": set(), "c": set()}


def test_accounts_have_the_labels_that_are_in_effect(world: World) -> None:
    """On a profile those of the account, of its profile record, and its own. The author of a post has them, too."""
    ann, both = world.ann, f"{world.mod.did}, {world.other.did}"
    want = {(world.mod.did, "an-account"), (world.mod.did, "a-profile"), (ann.did, "!no-unauthenticated-x")}
    assert world.labels_of(ann.did) | world.labels_of(ann.uri(PROFILE)) == want
    asked = world.asking(both)
    assert shown(asked.get("app.bsky.actor.getProfile", actor=ann.did).body) == want
    (view,) = asked.get("app.bsky.feed.getPosts", uris=[ann.uri(f"{POST}/a")]).body["posts"]
    assert shown(view["author"]) == want
    feed = asked.get("app.bsky.feed.getAuthorFeed", actor=ann.did).body["feed"]
    assert {it["post"]["uri"].split("/")[4]: shown(it["post"]) for it in feed} == world.posts(both, "a", "b", "c")
    asked = world.asking(f"{world.mod.did};redact")
    feed = asked.get("app.bsky.feed.getAuthorFeed", actor=ann.did).body["feed"]
    assert {it["post"]["uri"].split("/")[4] for it in feed} == {"a", "b"}


def test_labelers_are_shown_with_what_their_labels_mean(world: World) -> None:
    asked = world.asking(f"{world.mod.did}, {world.other.did}")
    answer = asked.get("app.bsky.labeler.getServices", dids=[world.mod.did, NOBODY], detailed="true")
    (view,) = answer.body["views"]
    assert view["creator"]["associated"]["labeler"] is True
    assert shown(view["creator"]) == {(world.other.did, "a-labeler")} == world.labels_of(world.mod.did)
    (meant,) = view["policies"]["labelValueDefinitions"]
    assert (meant["identifier"], meant["locales"][0]["name"]) == ("spam", "Spam")


def test_every_label_in_effect_is_shown_once_a_labeler_and_value(world: World) -> None:
    """Two versions of a record with the same label are two rows, and one label to readers."""
    a = world.ann.uri(f"{POST}/a")
    stored = "SELECT count(*) FROM pipeline.label_in_effect WHERE uri = %s AND src = %s AND val = 'spam'"
    assert rows(world.database.url, stored, a, world.mod.did) == [(2,)]
    answer = world.asking(world.mod.did).get("app.bsky.feed.getPosts", uris=[a])
    ends = {label["val"]: label.get("exp") for label in answer.body["posts"][0]["labels"]}
    assert ends["limited"] == "2998-12-31T22:00:00.000Z"
    assert ends["again"] is None
