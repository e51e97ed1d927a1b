"""Generated networks of different character, from a seed (test_reads_of_networks.py).

`everyday` is the simulated network's usual traffic. In `hostile` a few accounts edit, delete, repeat, gate and
block all the time, and in `lists` they do so with lists. In `lives` accounts rename, contend for handles, are
deactivated, deleted and return, while a moderator takes things down, labelers label, and accounts mute. The same
arguments give the same steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import libipld
from coincurve import PrivateKey

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.conformance.reference.generated import (
    Answers,
    Events,
    GeneratedNetwork,
    Labels,
    Statement,
    Step,
)
from appview_pipeline_tests.conformance.reference.oracle import Call
from appview_pipeline_tests.properties.networks import NAMES, START, Move, did_of
from appview_pipeline_tests.properties.random_networks import KINDS, RandomNetwork
from appview_pipeline_tests.simulated_network import content
from appview_pipeline_tests.simulated_network.accounts import multikey
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.labels import make_label
from appview_pipeline_tests.simulated_network.repository import History, Repository, Write
from appview_pipeline_tests.simulated_network.world import Author, World
from appview_pipeline_tests.support.busy_world import BusyWorld
from appview_pipeline_tests.support.changes import encode
from appview_pipeline_tests.support.commits import (
    BLOCK,
    FOLLOW,
    LIKE,
    LISTBLOCK,
    LISTITEM,
    OPTOUT,
    POST,
    REPOST,
    VERIFICATION,
    collection_of,
)

SECOND = 1_000_000


class Observed:
    """A world that is watched: what it does becomes steps, with what directory and handles answer by then."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: list[Step] = []
        self._logs: dict[str, int] = {}
        self._handles: dict[str, str] = {}
        self._statuses: dict[str, str] = {}

    def happen(self, frames: Sequence[bytes]) -> None:
        """The world has sent these frames."""
        documents: dict[str, dict[str, Any] | None] = {}
        statuses: dict[str, str] = {}
        for author in self.world.authors:
            account, did = author.account, author.did
            if self._logs.get(did) != len(account.log):
                self._logs[did] = len(account.log)
                documents[did] = None if account.tombstoned else account.document()
            status = "active" if account.active else account.status or "deactivated"
            status = "gone" if status == "deleted" else status
            if self._statuses.get(did, "active") != status:
                self._statuses[did] = statuses[did] = status
        handles = {handle: author.did for handle, author in self.world.by_handle.items()}
        changed: dict[str, str | None] = {it: did for it, did in handles.items() if self._handles.get(it) != did}
        changed |= {handle: None for handle in self._handles if handle not in handles}
        self._handles = handles
        if documents or changed or statuses:
            self.steps.append(Answers(documents, changed, statuses))
        if frames:
            self.steps.append(Events(tuple(frames)))

    def go_on(self, events: int) -> None:
        """Lets about so many events happen."""
        made = 0
        while made < events:
            frames = self.world.step()
            self.happen(frames)
            made += len(frames)


# ---- the simulated network's own traffic


def everyday(seed: int = 1, events: int = 1_500) -> GeneratedNetwork:
    """The usual traffic of the simulated network, within three quarters of an hour: handles are looked up once."""
    world = World(seed, accounts=40, start=START / 1e6, rate=events / 2_700, pasts=(), p256_share=0.2)
    observed = Observed(world)
    observed.happen([world._identity_frame(author) for author in world.authors[:30]])
    observed.go_on(events)
    return GeneratedNetwork(f"everyday {seed}", tuple(observed.steps))


# ---- a few accounts that do everything, often


PAIRS = frozenset({LIKE, REPOST, FOLLOW, BLOCK, LISTITEM, LISTBLOCK, OPTOUT, VERIFICATION})
"""Collections of which an account's first record about a subject counts."""


class _Hostile(RandomNetwork):
    """A random network whose posts have TIDs as record keys, as clients write them.

    Likes and the like are deleted, repeated and written anew, but not edited: no client does that, and the reference
    then depends on what was indexed before (docs/differences.md; `test_reference_cases.py`, `test_duplicates.py`).
    """

    def put(self, move: Move, uri: str, record: dict[str, Any] | None) -> None:
        if record is not None and uri in self.alive and collection_of(uri) in PAIRS:
            return
        super().put(move, uri, record)

    def new_uri(self, did: str, collection: str) -> str:
        if collection != POST:
            return super().new_uri(did, collection)
        self.numbers[did, collection] += 1
        moment = START + len(self.commits) * SECOND + self.numbers[did, collection]
        return f"at://{did}/{POST}/{tid_from_micros(moment)}"


def hostile(seed: int = 1, events: int = 1_000, kinds: Sequence[str] = KINDS) -> GeneratedNetwork:
    """Five accounts that post, reply, gate, like twice, edit, delete and repeat, each operation about another's."""
    rng = Random(f"hostile {seed}")
    builder = _Hostile()
    while len(builder.commits) < events:
        joins = rng.random() < 0.15
        move = Move(rng.choice(kinds), rng.randrange(5), rng.randrange(32), rng.randrange(32), rng.randrange(16), joins)
        builder.make(move)
    directory, keys = directory_of([did_of(number) for number in range(len(NAMES))])
    repositories = {did: Repository(did, key, History()) for did, key in keys.items()}
    frames = []
    for number, (did, rev, time, ops, _) in enumerate(builder.commits[:events]):
        repository = repositories[did]
        writes = [
            Write(op.action, f"{op.collection}/{op.rkey}", op.record and libipld.decode_dag_cbor(encode(op.record)))
            for op in ops
        ]
        # An edit that changes nothing is no operation of a repository.
        writes = [it for it in writes if it.record is None or not _is_stored(repository, it)]
        frames.append(frame("#commit", number + 1, time, repository.commit(writes, rev).event()))
    return GeneratedNetwork(f"hostile {seed}", (directory, Events(tuple(frames))))


LIST_KINDS = ("list", "listitem", "listitem", "optout", "optout", "listblock", "again", "twice", "delete", "post")


def lists(seed: int = 1, events: int = 300) -> GeneratedNetwork:
    """The same accounts with little but lists, their members, and opt-outs of them, in duplicate."""
    made = hostile(seed, events, LIST_KINDS)
    return GeneratedNetwork(f"lists {seed}", made.steps)


def _is_stored(repository: Repository, write: Write) -> bool:
    found = repository.get(write.path)
    return found is not None and found[1] == libipld.encode_dag_cbor(write.record)


def directory_of(dids: Sequence[str]) -> tuple[Answers, dict[str, PrivateKey]]:
    """What the directory says of accounts, each with a handle made of its DID; and their keys."""
    keys = {did: PrivateKey(hashlib.sha256(did.encode()).digest()) for did in dids}
    handles = {did: f"{did.rpartition(':')[2]}.example.com" for did in dids}
    documents = {did: document(did, handles[did], keys[did]) for did in dids}
    return Answers(documents, {handle: did for did, handle in handles.items()}), keys


def document(did: str, handle: str, key: PrivateKey) -> dict[str, Any]:
    """A DID document."""
    return {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": did,
        "alsoKnownAs": [f"at://{handle}"],
        "verificationMethod": [
            {"id": f"{did}#atproto", "type": "Multikey", "controller": did, "publicKeyMultibase": multikey(key)}
        ],
        "service": [
            {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.example.com"}
        ],
    }


def frame(kind: str, seq: int, time: str, body: dict[str, Any]) -> bytes:
    """A frame of the relay."""
    header = libipld.encode_dag_cbor({"op": 1, "t": kind})
    return bytes(header + libipld.encode_dag_cbor({"seq": seq, "time": time, **body}))


# ---- accounts that come, change and go, and what is done here about them


READERS = 2
"""Accounts that do not post."""


class _Lives(BusyWorld):
    """A busy world whose accounts can be deleted and return. The first `READERS` label, mute threads, do not post."""

    def _commit(self) -> list[bytes]:
        author = super()._somebody_active()
        if author.account.index >= READERS:
            frames: list[bytes] = super()._commit()
            return frames
        act = (
            self._like(author)
            or self._follow(author)
            or self._put_self(author, content.labeler(self.rng, self._when()))
        )
        return self._commit_frames(author, act) if act else []

    def _somebody_active(self) -> Author:
        while (found := super()._somebody_active()).account.index < READERS:
            pass
        return found

    def vanish(self, did: str) -> list[bytes]:
        """The account is deleted, but its DID is not given up."""
        author = self.by_did[did]
        author.account.active, author.account.status = False, "deleted"
        author.repository.clear()
        author.done.clear()
        self.forget(did)
        return [self._account_frame(author)]

    def forget(self, did: str) -> None:
        """Nobody refers to anything of the account any more: no AppView shows it to them."""
        self.popular.members[:] = [it for it in self.popular.members if did not in str(it)]
        for drawn in (self.recent, self.reposts, *self.curated.values()):
            drawn.members[:] = [it for it in drawn.members if did not in str(it)]
        self.by_did[did].curated.clear()
        self.deleted.pop(did, None)

    def come_back(self, did: str) -> list[bytes]:
        """It is there again, with an empty repository."""
        author = self.by_did[did]
        author.account.active, author.account.status = True, None
        return [self._identity_frame(author), self._account_frame(author)]


class _Life(Observed):
    """What happens between the events. Accounts are the world's, labelers two of them."""

    world: _Lives

    def __init__(self, world: _Lives, rng: Random) -> None:
        super().__init__(world)
        self.rng = rng
        self.labelers = [author.did for author in world.authors[:READERS]]
        self.given: list[tuple[str, str, str | None, str]] = []
        self.label_seq = 0
        self.blobs: set[tuple[str, str]] = set()
        self.muted: set[str] = set()

    # What an account does

    def _some(self, *statuses: str | None) -> str | None:
        found = [it.did for it in self.world.authors[READERS:] if it.account.status in statuses]
        return self.rng.choice(found) if found else None

    def rename(self) -> None:
        if did := self._some(None):
            self.happen(self.world.rename(did))

    def claim(self) -> None:
        """A document names a handle that names another account; sometimes the handle names it from then on."""
        did, other = self._some(None), self._some(None)
        if did and other and did != other:
            handle = self.world.by_did[other].account.handle
            if self.rng.random() < 0.5:
                self.world.point(handle, did)
            self.happen(self.world.claim(did, handle))

    def hide(self) -> None:
        if did := self._some(None):
            self.happen(self.world.deactivate(did, self.rng.choice(("deactivated", "suspended", "takendown"))))

    def show(self) -> None:
        if did := self._some("deactivated", "suspended", "takendown"):
            self.happen(self.world.reactivate(did))

    def vanish(self) -> None:
        if did := self._some(None, "deactivated"):
            self.happen(self.world.vanish(did))
            self.pause()

    def come_back(self) -> None:
        did = self._some("deleted")
        if did and not self.world.by_did[did].account.tombstoned:
            self.happen(self.world.come_back(did))
            self.pause()

    def give_up(self) -> None:
        """The account is deleted, and its DID with it."""
        if did := self._some(None):
            frames = self.world.delete(did)
            self.world.forget(did)
            self.happen(frames)
            self.pause()

    def arrive(self) -> None:
        self.happen(self.world.arrive())

    def pause(self) -> None:
        """Both sides have removed what is to be removed before anything else happens."""
        self.steps.append(Answers())

    # What is done here

    def _some_record(self, *collections: str) -> str | None:
        uris = [
            author.uri(*path.split("/"))
            for author in self.world.authors
            for path in author.repository.own
            if not collections or path.split("/")[0] in collections
        ]
        return self.rng.choice(sorted(uris)) if uris else None

    def take_down(self) -> None:
        did, uri = self.rng.choice(self.world.authors).did, self._some_record()
        choice = self.rng.random()
        if choice < 0.25:
            self.steps.append(Call("takedownActor", {"did": did, "ref": f"case-{len(self.steps)}"}))
        elif choice < 0.75 and uri is not None:
            self.steps.append(Call("takedownRecord", {"recordUri": uri}))
        elif (uri := self._some_record("app.bsky.actor.profile")) is not None:
            found = self.world.by_did[uri.split("/")[2]].repository.get("app.bsky.actor.profile/self")
            avatar = libipld.decode_dag_cbor(found[1]).get("avatar") if found else None
            if avatar and (blob := (uri.split("/")[2], cid.to_text(avatar["ref"]))) not in self.blobs:
                self.blobs.add(blob)
                self.steps.append(Call("takedownBlob", {"did": blob[0], "cid": blob[1]}))

    def restore(self) -> None:
        taken = [it for it in self.steps if isinstance(it, Call) and it.method.startswith("takedown")]
        if taken:
            call = self.rng.choice(taken)
            request = {name: value for name, value in call.request.items() if name != "ref"}
            self.steps.append(Call(f"un{call.method}", request))
            self.blobs.discard((request.get("did", ""), request.get("cid", "")))

    def mute(self) -> None:
        who, whom = self.rng.sample([author.did for author in self.world.authors], 2)
        choice = self.rng.random()
        if choice < 0.4:
            scope = self.rng.choice(({}, {}, {"onlyReposts": True}, {"onlyQuoteposts": True}))
            self.steps.append(Call("createActorMute", {"actorDid": who, "subjectDid": whom, **scope}))
        elif choice < 0.5:
            self.steps.append(Call("deleteActorMute", {"actorDid": who, "subjectDid": whom}))
        elif choice < 0.6:
            moment = iso(self.world.clock.micros - self.rng.randrange(600) * SECOND)
            self.steps.append(Call("updateNotificationSeen", {"actorDid": who, "timestamp": moment}))
        elif choice < 0.8 and (uri := self._some_record(LIST)):
            self.steps.append(Call("createActorMutelistSubscription", {"actorDid": who, "subjectUri": uri}))
        elif uri := self._some_record(POST):
            # By accounts without posts: the reference loses a like or a reply of which it notifies nobody for a mute.
            now = iso(self.world.clock.micros)
            self.steps.append(Statement(_THREAD_MUTE, {"who": self.rng.choice(self.labelers), "root": uri, "now": now}))

    def keep(self) -> None:
        """Bookmarks, drafts, preferences, as bsync's subscription stores them."""
        who, key = self.rng.choice(self.world.authors).did, f"key{len(self.steps)}"
        now = iso(self.world.clock.micros)
        if self.rng.random() < 0.5 and (uri := self._some_record(POST)):
            self.steps.append(Statement(_BOOKMARK, {"who": who, "key": key, "uri": uri, "now": now}))
        else:
            self.steps.append(Statement(_DRAFT, {"who": who, "key": key, "now": now}))

    def label(self) -> None:
        """A label, or the negation of one; of an account or of a record, of one version or of all."""
        src, subject = self.rng.choice(self.labelers), self._some_record()
        if subject is None:
            return
        version: str | None = None
        if self.given and self.rng.random() < 0.35:
            src, subject, version, val = self.rng.choice(self.given)
            neg = self.rng.random() < 0.7
            if self.rng.random() < 0.3:
                version = None
        else:
            val, neg = self.rng.choice(("spam", "rude", "!hide", "!takedown", "porn")), False
            if self.rng.random() < 0.3:
                subject = subject.split("/")[2]
            elif self.rng.random() < 0.4:
                found = self.world.by_did[subject.split("/")[2]].repository.get("/".join(subject.split("/")[3:]))
                version = cid.to_text(found[0]) if found else None
        exp = (
            None if neg else self.rng.choice((None, None, None, "2025-07-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z"))
        )
        self.given.append((src, subject, version, val))
        self.label_seq += 1
        cts = iso(self.world.clock.tick(1_000))
        made = make_label(None, src=src, uri=subject, val=val, cts=cts, cid=version, neg=neg, exp=exp)
        self.steps.append(Labels(self.label_seq, (made,)))


LIST = "app.bsky.graph.list"
_BOOKMARK = """
WITH kept AS (
  INSERT INTO bsky.bookmark (creator, key, "subjectUri", "subjectCid", "indexedAt")
  VALUES (%(who)s, %(key)s, %(uri)s, 'bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454', %(now)s)
  ON CONFLICT DO NOTHING
  RETURNING "subjectUri"
)
INSERT INTO bsky.post_agg AS a (uri, "bookmarkCount")
SELECT "subjectUri", 1 FROM kept
ON CONFLICT (uri) DO UPDATE SET "bookmarkCount" = a."bookmarkCount" + 1
"""
_THREAD_MUTE = """
INSERT INTO bsky.thread_mute ("rootUri", "mutedByDid", "createdAt") VALUES (%(root)s, %(who)s, %(now)s)
ON CONFLICT DO NOTHING
"""
_DRAFT = """
INSERT INTO bsky.draft (creator, key, "createdAt", "updatedAt", payload)
VALUES (%(who)s, %(key)s, %(now)s, %(now)s, '{}')
"""


def lives(seed: int = 1, events: int = 600) -> GeneratedNetwork:
    """A busy world whose accounts change and go, within an hour; between its events moderation, labels, private state.

    Both sides get what is done here at the same moments of the stream.
    """
    rng = Random(f"lives {seed}")
    world = _Lives(seed, accounts=14)
    world.rate = events / 2_000
    life = _Life(world, rng)
    life.happen([world._identity_frame(author) for author in world.authors])
    weighted: list[tuple[Callable[[], None], float]] = [
        *((life.rename, 2), (life.claim, 2), (life.hide, 2), (life.show, 3), (life.vanish, 1), (life.come_back, 2)),
        *((life.give_up, 0.5), (life.arrive, 1), (life.take_down, 5), (life.restore, 3), (life.mute, 6)),
        *((life.keep, 3), (life.label, 10)),
    ]
    acts, weights = zip(*weighted, strict=True)
    while sum(len(it.frames) for it in life.steps if isinstance(it, Events)) < events:
        life.go_on(rng.choice((2, 5, 12)))
        rng.choices(acts, weights)[0]()
    return GeneratedNetwork(f"lives {seed}", tuple(life.steps))
