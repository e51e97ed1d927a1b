"""A small network, the same each time, for the reference AppView to serve, and what it knows of itself.

Its accounts write all kinds of records, edit and delete them, block each other and close their threads. What clients
must be shown follows from its repositories alone: every commit goes into the model of properties/model.py as it is
made, and expected_views.py makes the views of it. No database is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import libipld

from appview_pipeline.identity.attempt import attempt
from appview_pipeline.identity.on_demand import resolve_now
from appview_pipeline.identity.questions import questions
from appview_pipeline.labels.by_hand import subscribe
from appview_pipeline.protocol import cid
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference.expected_views import Label, Views
from appview_pipeline_tests.properties.model import Model
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork, content
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.simulated_network.world import Author
from appview_pipeline_tests.support.batches import changes_of, writer_for
from appview_pipeline_tests.support.busy_world import BusyWorld
from appview_pipeline_tests.support.commits import POST, Commit, Op
from appview_pipeline_tests.support.tables import rows

SEED = 1
ACCOUNTS = 12
FRAMES = 700
LABELED_AT = "2025-06-20T12:00:00.000Z"
"""When all labels were made."""


class ServedWorld(BusyWorld):
    """The world. `model`: what it wrote so far, by the plain rules. `frames`: what the relay sent so far.

    Block lists are left out: the reference's own query fails where two of an account's block lists have one subject.
    """

    acts: ClassVar[tuple[str, ...]] = (
        *("like",) * 10,
        *("post",) * 8,
        *("repost",) * 4,
        *("quote",) * 3,
        *("follow",) * 5,
        *("profile", "edit", "edit", "list_item", "list_item", "generator", "starter_pack", "list", "list_opt_out"),
        *("duplicate", "delete", "delete", "again", "undo", "unfollow", "gate", "gate", "verification", "block"),
        *("notification_declaration", "status"),
    )

    def __init__(self, seed: int = SEED, accounts: int = ACCOUNTS) -> None:
        self.model = Model()
        super().__init__(seed, accounts, p256_share=0.25)

    def _quote(self, author: Author) -> list[Write] | None:
        """A post that quotes one."""
        found = self._some_post()
        if found is None:
            return None
        record = {"$type": POST, "text": content.sentence(self.rng, "en", 80), "createdAt": self._when()}
        return self._create(author, record | {"embed": content.quote(found.ref)})

    def _profile(self, author: Author) -> list[Write] | None:
        """Half of those who come are invited by a starter pack."""
        pack = self._some_curated("app.bsky.graph.starterpack") if self.rng.random() < 0.5 else None
        return self._put_self(author, content.profile(self.rng, self._when(), joined_via=pack))

    def _somebody_active(self) -> Author:
        return self.rng.choice([author for author in self.authors if author.account.active])

    def _status_change(self) -> list[bytes]:
        return []  # who leaves is decided by `served_network`

    def _commit_frames(self, author: Author, writes: list[Write]) -> list[bytes]:
        frames = super()._commit_frames(author, writes)
        for frame in frames:
            _, body = libipld.decode_dag_cbor_multi(frame)
            ops = tuple(_op(op, write) for op, write in zip(body["ops"], writes, strict=True))
            self.model.apply(Commit(body["repo"], body["rev"], body["time"], ops))
        return frames


def _op(op: dict[str, Any], write: Write) -> Op:
    collection, rkey = write.path.split("/")
    if write.record is None:
        return Op("delete", collection, rkey)
    return Op(write.action, collection, rkey, cid.to_text(op["cid"]), _json(write.record))


def _json(value: Any) -> Any:
    """A record's value as atproto JSON. The world's records have no byte strings but CIDs."""
    if isinstance(value, bytes):
        return {"$link": cid.to_text(value)}
    if isinstance(value, dict):
        return {key: _json(it) for key, it in value.items()}
    return [_json(it) for it in value] if isinstance(value, list) else value


class ServedNetwork(SimulatedNetwork):
    """The world behind real servers, with two labelers that have labeled it. A context manager.

    `frames`: what the relay sent. `hidden`: accounts that clients are not shown.
    """

    world: ServedWorld

    def __init__(self, world: ServedWorld) -> None:
        super().__init__(world)
        self.frames: list[bytes] = []
        self.hidden: set[str] = set()

    def __enter__(self) -> ServedNetwork:
        super().__enter__()
        return self

    def happen(self, event: Any, *arguments: Any, **options: Any) -> list[bytes]:
        frames = super().happen(event, *arguments, **options)
        self.frames += frames
        return frames

    def settings(self, database: Database) -> Settings:
        """The settings of a pipeline that reads this network into `database`."""
        return load({**self.environment(), "APPVIEW_DATABASE_URL": database.url, "APPVIEW_BATCH_SECONDS": "0.05"})

    @property
    def dids(self) -> list[str]:
        """All accounts, in the order in which they came."""
        return [author.did for author in self.world.authors]

    def handle(self, did: str) -> str:
        """The handle of an account."""
        return self.world.by_did[did].account.handle


@contextmanager
def served_network(frames: int = FRAMES, seed: int = SEED) -> Iterator[ServedNetwork]:
    """The network after so many frames, with its labels; one account has left and one was taken down by its PDS."""
    with ServedNetwork(ServedWorld(seed)) as network:
        labelers = [network.labelers.add(), network.labelers.add(p256=True)]
        network.advance(frames)
        away, gone = network.dids[4], network.dids[6]
        network.happen(network.world.deactivate, away)
        network.happen(network.world.deactivate, gone, "takendown")
        network.hidden |= {away, gone}
        _label(network, *labelers)
        yield network


def _label(network: ServedNetwork, first: Labeler, second: Labeler) -> None:
    """Posts and accounts get labels: with a CID and without, of both labelers, and one that is taken back."""
    posts = sorted(
        (record for record in network.world.model.records.values() if record.collection == POST),
        key=lambda record: record.uri,
    )
    for number, post in enumerate(posts[::3]):
        first.label(post.uri, ("spam", "rude", "spider")[number % 3], cts=LABELED_AT)
    for post in posts[::5]:
        second.label(post.uri, "rude", cid=post.cid, cts=LABELED_AT)
    first.label(posts[0].uri, "spam", cts="2025-06-20T12:00:01.000Z", neg=True)
    for did in network.dids[1:4]:
        second.label(did, "spider", cts=LABELED_AT)


def index(network: ServedNetwork, database: Database) -> None:
    """Fills the database with all that the network has said: the frames, then the identities, then the labels."""
    write(network, database, network.frames)
    resolve(network, database)
    read_labels(network, database)


def write(network: ServedNetwork, database: Database, frames: list[bytes], batch: int = 200) -> None:
    """Writes frames as a replay does."""
    writer = writer_for(database)
    for start in range(0, len(frames), batch):
        writer.write(changes_of(*frames[start : start + batch]), 0.0)


def resolve(network: ServedNetwork, database: Database) -> None:
    """Resolves every account, over the network's directory, DNS and hosts."""
    settings = network.settings(database)
    with questions(settings) as (asked, _):
        for did in network.dids:
            resolve_now(database, settings, did, lambda wanted: attempt(wanted, asked))


def read_labels(network: ServedNetwork, database: Database) -> None:
    """Reads the streams of the network's labelers to their ends."""
    wanted = {labeler.did: labeler.seq for labeler in network.labelers}
    cursors = "SELECT did, cursor FROM pipeline.labeler"
    subscribe(
        network.settings(database), stopped=lambda: wanted.items() <= dict(rows(database.url, cursors)).items()
    )  # fmt: skip


def views(network: ServedNetwork) -> Views:
    """What clients must be shown of the network as it is now."""
    return Views(
        network.world.model,
        {did: network.handle(did) for did in network.dids},
        network.hidden,
        labels=_labels(network),
    )


def _labels(network: ServedNetwork) -> dict[str, set[Label]]:
    """The labels in effect by subject, as the labelers' own streams have them."""
    found: dict[str, set[Label]] = {}
    said = [label for labeler in network.labelers for label in labeler.labels.values()]
    for label in said:
        found.setdefault(label["uri"], set()).add((label["src"], label["val"]))
    for label in said:
        if label.get("neg"):
            found[label["uri"]].discard((label["src"], label["val"]))
    return found
