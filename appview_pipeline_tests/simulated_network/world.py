"""The simulated world: thousands of accounts that write to each other, as a stream of relay frames.

`World.step` lets one thing happen and returns the frames that a relay would send for it. Everything is drawn from one
seeded generator and one simulated clock, so the same arguments give the same bytes. Revs and record keys are TIDs of
that clock. Sizes and mix follow the real relay (`docs/simulated-network.md`).
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import libipld

from appview_pipeline.protocol import cid
from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline_tests.simulated_network import content
from appview_pipeline_tests.simulated_network.accounts import HANDLE_DOMAIN, Account, Key
from appview_pipeline_tests.simulated_network.content import Post, StrongRef, iso
from appview_pipeline_tests.simulated_network.draws import Clock, Ranked, Recent
from appview_pipeline_tests.simulated_network.faults import draw
from appview_pipeline_tests.simulated_network.mishaps import LOST, UNNUMBERED, Mishaps, tampered
from appview_pipeline_tests.simulated_network.repository import Commit, History, Repository, Write

# What a commit does, in parts per thousand of commits.
MIX: tuple[tuple[str, float], ...] = (
    ("like", 690),
    ("post", 108),
    ("repost", 98),
    ("follow", 41),
    ("unfollow", 20),
    ("delete", 7),
    ("edit", 13),
    ("block", 7),
    ("foreign", 6),
    ("list_item", 3),
    ("profile", 2),
    ("list", 0.9),
    ("generator", 0.5),
    ("chat_declaration", 0.5),
    ("notification_declaration", 0.4),
    ("starter_pack", 0.4),
    ("list_block", 0.4),
    ("status", 0.4),
    ("follow_many", 0.4),
    ("verification", 0.3),
    ("labeler", 0.2),
)

# Per thousand steps; the rest are commits.
NEW_ACCOUNTS = 1.5
IDENTITIES = 2.0
STATUS_CHANGES = 1.0
SYNCS = 0.5

# Records in the pasts that accounts start with, and how many accounts in a hundred have each. An active account of the
# real network has tens of thousands; it is them that make the proofs as deep as they are.
Pasts = Sequence[tuple[int, float]]
PASTS: Pasts = ((40, 2), (300, 3), (2_500, 8), (12_000, 17), (30_000, 30), (64_000, 40))
_PAST_MIX = (("like", 690), ("post", 120), ("repost", 90), ("follow", 80), ("block", 8), ("foreign", 6))
_PAST_MICROS = 700 * 86_400 * 1_000_000

_NAMES, _WEIGHTS = zip(*MIX, strict=True)

COMMIT_HEADER = bytes.fromhex("a26174672363 6f6d6d6974626f7001".replace(" ", ""))


def _header(kind: str) -> bytes:
    return bytes(libipld.encode_dag_cbor({"op": 1, "t": kind}))


assert _header("#commit") == COMMIT_HEADER


class Author:
    """An account with its repository, and what it has done: nobody likes the same post again and again."""

    __slots__ = ("account", "clock_id", "curated", "done", "repository")

    def __init__(self, account: Account, repository: Repository) -> None:
        self.account = account
        self.repository = repository
        self.clock_id = content.digest_number(account.did) % 1024
        self.done: set[str] = set()  # subjects, prefixed with what was done to them
        self.curated: dict[str, list[str]] = {}  # own lists etc.: collection -> URIs

    @property
    def did(self) -> str:
        return self.account.did

    def has_done(self, key: str) -> bool:
        return key in self.done or key in self.repository.history.done

    def uri(self, collection: str, rkey: str) -> str:
        return f"at://{self.account.did}/{collection}/{rkey}"


Act = list[Write]


class World:
    """See the module. `start` is in seconds since 1970, `rate` in steps per simulated second.

    `pasts=()` lets all repositories start empty: quick to make, frames small. Beyond `max_records` records of its
    own (not counting pasts) the world deletes accounts, and others come: memory stays bounded however long it runs.

    The accounts are at `homes` PDSes, by hash. `p256_share` of them sign with P-256, the others with secp256k1.
    `mishaps` says what the relay loses and changes of what they write.
    """

    def __init__(
        self,
        seed: int = 1,
        accounts: int = 3_000,
        *,
        start: float,
        rate: float = 500.0,
        first_seq: int = 1,
        pasts: Pasts = PASTS,
        max_records: int = 1_000_000,
        homes: int = 1,
        p256_share: float = 0.0,
    ) -> None:
        self.seed = seed
        self.homes = homes
        self.p256_share = p256_share
        self.mishaps = Mishaps(seed=seed)
        self.rate = rate
        # A string: seeded by its SHA-512, the same everywhere. Another string makes other worlds (see accounts.py).
        self.rng = Random(f"simnet world {seed}")
        self.clock = Clock(int(start * 1_000_000))
        self.stamped = 0  # the newest time on a frame
        self.seq = first_seq - 1
        self.max_records = max_records
        self.records = 0
        self.lock = threading.RLock()  # held while a step changes the world, and by the servers while they read it
        self.authors: list[Author] = []
        self.by_did: dict[str, Author] = {}
        self.by_handle: dict[str, Author] = {}  # what DNS and the web servers of the handles say
        self.pds_urls: dict[int, str] = {}  # by the number of the PDS; each enters itself
        self._activity: list[float] = []  # running sum of the authors' weights
        self.popular = Ranked(self.rng, 20_000)
        self.recent = Recent(self.rng, 5_000)
        self.reposts = Recent(self.rng, 2_000)
        self.curated: dict[str, Recent] = {}
        self._nobody = History()
        self._act: dict[str, Callable[[Author], Act | None]] = {
            name: getattr(self, f"_{name}") for name in (*_NAMES, *(name for name, _ in _PAST_MIX))
        }
        histories = [History() for _ in pasts] or [self._nobody]
        weights = [weight for _, weight in pasts] or [1.0]
        for _ in range(accounts):
            self._join(self.rng.choices(histories, weights)[0])
        if pasts:
            self._live_through(histories, [size for size, _ in pasts])
        for author in self.authors:
            age = self.rng.random() * 7 * 86_400 * 1_000_000
            author.repository.found(tid_from_micros(self.clock.micros - int(age), author.clock_id))

    # ---- people

    def _join(self, history: History) -> Author:
        index = len(self.authors)
        p256 = draw(f"p256 {self.seed} {index}") < self.p256_share
        account = Account(self.seed, index, self.clock.micros, p256=p256)
        account.home = int(draw(f"home {account.did}") * self.homes)
        author = Author(account, Repository(account.did, account.key, history))
        self.authors.append(author)
        self.by_did[account.did] = author
        self.by_handle[account.handle] = author
        self._activity.append((self._activity[-1] if self._activity else 0.0) + self.rng.lognormvariate(0, 1.3))
        return author

    def _somebody_active(self) -> Author:
        while True:
            at = bisect_right(self._activity, self.rng.random() * self._activity[-1])
            if self.authors[at].account.active:
                return self.authors[at]

    def _famous(self, other_than: Author) -> Author | None:
        """An account, by fame (Zipf over the order of joining)."""
        for _ in range(8):
            found = self.authors[int(len(self.authors) ** self.rng.random()) - 1]
            if found.account.active and not self._same(found, other_than):
                return found
        return None

    def _same(self, found: Author, author: Author) -> bool:
        # The past of many accounts is written once, by a ghost: none of those accounts may be its subject.
        if author.account.index < 0:
            return found.repository.history is author.repository.history
        return found is author

    # ---- things to refer to

    def _some_post(self) -> Post | None:
        if not self.recent.members:
            return None
        return self.popular.draw() if self.rng.random() < 0.5 else self.recent.draw()

    def _unseen_post(self, author: Author, doing: str) -> Post | None:
        """A post that this author has not done this to; once in a while one that it has (a duplicate)."""
        for _ in range(6):
            found = self._some_post()
            if found is None:
                return None
            if not author.has_done(key := doing + found.ref.uri) or self.rng.random() < 0.002:
                author.done.add(key)
                return found
        return None

    def _quotable(self) -> StrongRef | None:
        if self.rng.random() < 0.06:
            kind = self.rng.choice(("app.bsky.feed.generator", "app.bsky.graph.list", "app.bsky.graph.starterpack"))
            if found := self._some_curated(kind):
                return found
        post = self._some_post()
        return post.ref if post else None

    def _mentionable(self, author: Author) -> tuple[str, str]:
        found = self._famous(author) or self.authors[0]
        return found.account.handle, found.did

    def _some_curated(self, collection: str) -> StrongRef | None:
        found: StrongRef | None = self.curated[collection].draw() if collection in self.curated else None
        return found

    # ---- acts: each gives the writes of one commit, or None when there is nothing to do it to

    def _when(self) -> str:
        return content.created_at(self.rng, self.clock.micros)

    def _rkey(self, author: Author) -> str:
        return tid_from_micros(self.clock.tick(self.rng.random() * 300), author.clock_id)

    def _create(self, author: Author, record: content.Record, rkey: str | None = None) -> Act:
        return [Write("create", f"{record['$type']}/{rkey or self._rkey(author)}", record)]

    def _put_self(self, author: Author, record: content.Record) -> Act | None:
        path = f"{record['$type']}/self"
        found = author.repository.get(path)
        if found and found[1] == libipld.encode_dag_cbor(record):
            return None  # an update must change something
        return [Write("update" if found else "create", path, record)]

    def _subject(self, author: Author, doing: str, via_chance: float) -> tuple[StrongRef, StrongRef | None] | None:
        """A post to like or repost, and the repost through which the author came upon it, if any."""
        if self.rng.random() < via_chance and (seen := self.reposts.draw()):
            via, subject = seen
            if not author.has_done(key := doing + subject.uri):
                author.done.add(key)
                return subject, via
        post = self._unseen_post(author, doing)
        return (post.ref, None) if post else None

    def _like(self, author: Author) -> Act | None:
        if self.rng.random() < 0.005 and (feed := self._some_curated("app.bsky.feed.generator")):
            return self._create(author, content.like(feed, self._when()))
        found = self._subject(author, "l", 0.06)
        return self._create(author, content.like(found[0], self._when(), found[1])) if found else None

    def _repost(self, author: Author) -> Act | None:
        found = self._subject(author, "r", 0.03)
        return self._create(author, content.repost(found[0], self._when(), found[1])) if found else None

    def _post(self, author: Author) -> Act:
        parent = self._some_post() if self.rng.random() < 0.45 else None
        rkey = self._rkey(author)
        record = content.post(
            self.rng,
            self._when(),
            parent=parent,
            mentionable=lambda: self._mentionable(author),
            quotable=self._quotable,
        )
        writes = self._create(author, record, rkey)
        ghost = author.account.index < 0
        uri = author.uri("app.bsky.feed.post", rkey)
        if parent is None and not ghost and self.rng.random() < 0.03:
            gate = content.thread_gate(self.rng, uri, self._when(), author.curated.get("app.bsky.graph.list", ()))
            writes.append(Write("create", f"app.bsky.feed.threadgate/{rkey}", gate))
        if not ghost and self.rng.random() < 0.015:
            writes.append(
                Write("create", f"app.bsky.feed.postgate/{rkey}", content.post_gate(self.rng, uri, self._when()))
            )
        return writes

    def _follow(self, author: Author) -> Act | None:
        for _ in range(6):
            found = self._famous(author)
            if found is not None and not author.has_done("f" + found.did):
                author.done.add("f" + found.did)
                return self._create(author, content.follow(found.did, self._when()))
        return None

    def _follow_many(self, author: Author) -> Act | None:
        follows = [self._follow(author) for _ in range(self.rng.randint(5, 42))]
        return [write for act in follows if act for write in act] or None

    def _block(self, author: Author) -> Act | None:
        found = self._famous(author)
        return self._create(author, content.block(found.did, self._when())) if found else None

    def _unfollow(self, author: Author) -> Act | None:
        path = author.repository.some_path(self.rng, "app.bsky.graph.follow")
        return [Write("delete", path, None)] if path else None

    def _delete(self, author: Author) -> Act | None:
        wanted = self.rng.choices(("like", "post", "repost", "block", "listitem", "threadgate"), (40, 30, 20, 5, 3, 2))[
            0
        ]
        family = "graph" if wanted in ("block", "listitem") else "feed"
        path = author.repository.some_path(self.rng, f"app.bsky.{family}.{wanted}")
        if path is None:
            return None
        writes = [Write("delete", path, None)]
        if path.startswith("app.bsky.feed.post/"):
            rkey = path.rsplit("/", 1)[1]
            gates = (f"app.bsky.feed.{gate}/{rkey}" for gate in ("threadgate", "postgate"))
            writes.extend(Write("delete", gate, None) for gate in gates if author.repository.get(gate))
        return writes

    def _profile(self, author: Author) -> Act | None:
        pack = self._some_curated("app.bsky.graph.starterpack") if self.rng.random() < 0.1 else None
        return self._put_self(author, content.profile(self.rng, self._when(), joined_via=pack))

    def _edit(self, author: Author) -> Act | None:
        """Mostly the profile; now and then a thread gate, a list, a feed generator or a post."""
        if self.rng.random() < 0.75:
            return self._put_self(author, content.profile(self.rng, self._when()))
        path = author.repository.some_own_path(
            self.rng,
            ("app.bsky.feed.threadgate", "app.bsky.graph.list", "app.bsky.feed.generator", "app.bsky.feed.post"),
        )
        if path is None:
            return self._put_self(author, content.profile(self.rng, self._when()))
        found = author.repository.get(path)
        assert found is not None
        record = libipld.decode_dag_cbor(found[1])
        if path.startswith("app.bsky.feed.threadgate/"):
            reply = self._some_post()
            record = content.thread_gate(
                self.rng, record["post"], record["createdAt"], (), [reply.ref.uri] if reply else ()
            )
        elif path.startswith("app.bsky.feed.post/"):
            record["text"] = content.sentence(self.rng, "en", 250) + " (edited)"
            record.pop("facets", None)
        else:
            record["description"] = content.sentence(self.rng, "en", 250) + " (new)"
            record.pop("descriptionFacets", None)
        return [Write("update", path, record)]

    def _foreign(self, author: Author) -> Act:
        return self._create(author, content.foreign(self.rng, self._when()))

    def _list(self, author: Author) -> Act:
        purpose = self.rng.choice(("curatelist", "curatelist", "modlist", "referencelist"))
        writes = self._create(author, content.list_(self.rng, self._when(), purpose))
        uri = author.uri("app.bsky.graph.list", writes[0].path.rsplit("/", 1)[1])
        for _ in range(self.rng.choice((0, 0, 1, 3, 8))):
            if found := self._famous(author):
                writes += self._create(author, content.list_item(uri, found.did, self._when()))
        return writes

    def _list_item(self, author: Author) -> Act | None:
        lists = author.curated.get("app.bsky.graph.list")
        found = self._famous(author)
        if not lists or not found:
            return self._list(author) if self.rng.random() < 0.2 else None
        return self._create(author, content.list_item(self.rng.choice(lists), found.did, self._when()))

    def _list_block(self, author: Author) -> Act | None:
        found = self._some_curated("app.bsky.graph.list")
        return self._create(author, content.list_block(found.uri, self._when())) if found else None

    def _generator(self, author: Author) -> Act:
        rkey = f"feed-{self.rng.getrandbits(32):08x}"
        return self._create(author, content.generator(self.rng, self._when(), f"did:web:feeds.{HANDLE_DOMAIN}"), rkey)

    def _starter_pack(self, author: Author) -> Act:
        writes = self._create(author, content.list_(self.rng, self._when(), "referencelist"))
        uri = author.uri("app.bsky.graph.list", writes[0].path.rsplit("/", 1)[1])
        for _ in range(self.rng.randint(3, 12)):
            if found := self._famous(author):
                writes += self._create(author, content.list_item(uri, found.did, self._when()))
        feeds = [feed.uri for feed in [self._some_curated("app.bsky.feed.generator")] if feed]
        return writes + self._create(author, content.starter_pack(self.rng, uri, self._when(), feeds))

    def _labeler(self, author: Author) -> Act | None:
        return self._put_self(author, content.labeler(self.rng, self._when()))

    def _verification(self, author: Author) -> Act | None:
        found = self._famous(author)
        if not found:
            return None
        record = content.verification(
            found.did, found.account.handle, content.sentence(self.rng, "en", 40, 2), self._when()
        )
        return self._create(author, record)

    def _status(self, author: Author) -> Act | None:
        return self._put_self(author, content.status(self.rng, self._when()))

    def _chat_declaration(self, author: Author) -> Act | None:
        return self._put_self(author, content.chat_declaration(self.rng))

    def _notification_declaration(self, author: Author) -> Act | None:
        return self._put_self(author, content.notification_declaration(self.rng))

    # ---- pasts

    def _live_through(self, histories: list[History], sizes: list[int]) -> None:
        """Writes all histories, interleaved in time, so that each may refer to what the others had by then."""
        ghosts = []
        moments: list[tuple[int, int]] = []
        bearers: list[list[Author]] = [[] for _ in histories]
        for author in self.authors:
            bearers[histories.index(author.repository.history)].append(author)
        now = self.clock.micros
        for number, size in enumerate(sizes):
            account = Account(self.seed, -1 - number, now)
            ghosts.append(Author(account, Repository(account.did, account.key, histories[number])))
            moments += [(now - int(_PAST_MICROS * self.rng.random()), number) for _ in range(size)]
        names, weights = zip(*_PAST_MIX, strict=True)
        for moment, number in sorted(moments):
            self.clock.micros = max(moment, self.clock.micros if self.clock.micros < now else 0)
            name = self.rng.choices(names, weights)[0]
            for write in self._act[name](ghosts[number]) or self._post(ghosts[number])[:1]:
                stored = histories[number].add(write)
                if bearers[number]:
                    for bearer in self.rng.sample(bearers[number], min(2, len(bearers[number]))):
                        self._remember(bearer, write, stored)
        for ghost, history in zip(ghosts, histories, strict=True):
            for write in self._profile(ghost) or ():
                history.add(write)
            history.close(ghost.done)
        self.clock.micros = now

    # ---- time goes on

    def _remember(self, author: Author, write: Write, record_cid: bytes) -> None:
        """Lets others refer to what was written."""
        if write.action != "create" or write.record is None:
            return
        collection, rkey = write.path.split("/")
        if collection in ("app.bsky.feed.post", "app.bsky.feed.repost"):
            ref = StrongRef(author.uri(collection, rkey), cid.to_text(record_cid))
            if collection == "app.bsky.feed.repost":
                subject = write.record["subject"]
                self.reposts.add((ref, StrongRef(subject["uri"], subject["cid"])))
                return
            reply = write.record.get("reply")
            root = StrongRef(reply["root"]["uri"], reply["root"]["cid"]) if reply else None
            post = Post(ref, author.did, root)
            self.recent.add(post)
            self.popular.add(post)
        elif collection in ("app.bsky.graph.list", "app.bsky.feed.generator", "app.bsky.graph.starterpack"):
            ref = StrongRef(author.uri(collection, rkey), cid.to_text(record_cid))
            author.curated.setdefault(collection, []).append(ref.uri)
            self.curated.setdefault(collection, Recent(self.rng, 500)).add(ref)

    def _frame(self, kind: str, body: dict[str, Any], late: float = 0.0) -> bytes:
        """A frame that the relay stamps `late` microseconds from now; the clock does not wait for it."""
        self.seq += 1
        header = COMMIT_HEADER if kind == "#commit" else _header(kind)
        self.stamped = max(self.stamped, self.clock.micros + int(late))
        time = iso(self.stamped)
        return bytes(header + libipld.encode_dag_cbor({"seq": self.seq, "time": time, **body}))

    def _commit_frames(self, author: Author, writes: list[Write]) -> list[bytes]:
        """Lets the account commit. The commit's frame, or none when the relay loses it."""
        commit, late = self._committed(author, writes)
        mishap = self.mishaps.draw(author.did)
        if mishap in (LOST, UNNUMBERED):
            self.seq += mishap == LOST
            return []
        sent = tampered(commit, mishap) if mishap else commit
        return [self._frame("#commit", sent.event(), late)]

    def _committed(self, author: Author, writes: list[Write]) -> tuple[Commit, float]:
        """Commits, and lets others refer to what was written. Also the microseconds until the relay stamps it."""
        rev = tid_from_micros(self.clock.tick(self.rng.random() * 200), author.clock_id)
        before = len(author.repository)
        commit: Commit = author.repository.commit(writes, rev)
        self.records += len(author.repository) - before
        for write, op in zip(writes, commit.ops, strict=True):
            if write.action == "create":
                self._remember(author, write, op["cid"])
        return commit, self.rng.expovariate(1 / 20_000)

    def _identity_frame(self, author: Author, with_handle: bool = True) -> bytes:
        handle = {"handle": author.account.handle} if with_handle else {}
        return self._frame("#identity", {"did": author.did, **handle})

    def _account_frame(self, author: Author) -> bytes:
        status = {} if author.account.status is None else {"status": author.account.status}
        return self._frame("#account", {"did": author.did, "active": author.account.active, **status})

    def _sync_frame(self, author: Author) -> bytes:
        return self._frame("#sync", author.repository.sync_event())

    def _arrival(self) -> list[bytes]:
        """A new account: identity, account, the empty first commit and its sync, then a profile."""
        author = self._join(self._nobody)
        frames = [self._identity_frame(author), self._account_frame(author), *self._commit_frames(author, [])]
        frames += [self._sync_frame(author), *self._commit_frames(author, self._profile(author) or [])]
        return frames

    def _status_change(self) -> list[bytes]:
        author = self.authors[self.rng.randrange(len(self.authors))]
        account = author.account
        if account.status == "deleted":
            return []
        if account.active:
            account.active = False
            account.status = self.rng.choices(("deactivated", "takendown", "suspended"), (80, 15, 5))[0]
        else:
            account.active, account.status = True, None
        return [self._account_frame(author)]

    def _departure(self) -> list[bytes]:
        """The account with the most records among some is deleted, for good."""
        among = [a for a in self.rng.choices(self.authors, k=12) if a.account.status != "deleted"]
        return self._depart(max(among, key=lambda a: len(a.repository)))

    def _depart(self, author: Author) -> list[bytes]:
        account = author.account
        account.active, account.status = False, "deleted"
        self.records -= len(author.repository)
        account.tombstone(self.clock.micros)
        self._let_go(account)
        author.repository.clear()
        author.done.clear()
        return [self._account_frame(author), self._identity_frame(author, with_handle=False)]

    def _let_go(self, account: Account) -> None:
        """The account's handle names it no longer, if it did."""
        if (owner := self.by_handle.get(account.handle)) and owner.account is account:
            del self.by_handle[account.handle]

    def _rename(self, author: Author, handle: str) -> None:
        self._let_go(author.account)
        author.account.rename(handle, self.clock.micros)
        self.by_handle[handle] = author

    def _next_handle(self, account: Account) -> str:
        return f"{account.handle.split('.')[0]}x.{HANDLE_DOMAIN}"[-60:]

    def _identity_change(self) -> list[bytes]:
        author = self._somebody_active()
        if self.rng.random() < 0.5:
            self._rename(author, self._next_handle(author.account))
        return [self._identity_frame(author, with_handle=self.rng.random() < 0.7)]

    def _commit(self) -> list[bytes]:
        author = self._somebody_active()
        if len(author.done) > 20_000:
            author.done.clear()
        act = self._act[self.rng.choices(_NAMES, cum_weights=_CUMULATIVE)[0]](author)
        return self._commit_frames(author, act or self._like(author) or self._post(author))

    # ---- what tests ask for; each gives the relay's frames (`SimulatedNetwork.happen` publishes them)

    def _account_event(self, did: str, active: bool, status: str | None) -> list[bytes]:
        with self.lock:
            author = self.by_did[did]
            author.account.active, author.account.status = active, status
            return [self._account_frame(author)]

    def deactivate(self, did: str, status: str = "deactivated") -> list[bytes]:
        """The account is inactive: `deactivated`, `suspended`, `takendown` or any other status."""
        return self._account_event(did, False, status)

    def reactivate(self, did: str, status: str | None = None) -> list[bytes]:
        """The account is active; some statuses go with that (`throttled`, `desynchronized`)."""
        return self._account_event(did, True, status)

    def announce(self, did: str, active: bool, status: str | None = None) -> list[bytes]:
        """The relay says something of the account that its PDS does not: an `#account` without a cause."""
        with self.lock:
            body = {"did": did, "active": active} | ({} if status is None else {"status": status})
            return [self._frame("#account", body)]

    def delete(self, did: str) -> list[bytes]:
        """The account is deleted for good: its repository, its handle, and its DID (a tombstone)."""
        with self.lock:
            return self._depart(self.by_did[did])

    def rename(self, did: str, handle: str | None = None, *, with_handle: bool = True) -> list[bytes]:
        """The account has another handle, in its document, in DNS and on the web."""
        with self.lock:
            author = self.by_did[did]
            self._rename(author, handle or self._next_handle(author.account))
            return [self._identity_frame(author, with_handle)]

    def claim(self, did: str, handle: str) -> list[bytes]:
        """The account's document names a handle that may name nobody, or another account."""
        with self.lock:
            author = self.by_did[did]
            author.account.rename(handle, self.clock.micros)
            return [self._identity_frame(author)]

    def point(self, handle: str, did: str | None) -> None:
        """The handle names another account, or none, in DNS and on the web. No frame says so."""
        with self.lock:
            if did is None:
                self.by_handle.pop(handle, None)
            else:
                self.by_handle[handle] = self.by_did[did]

    def migrate(self, did: str, home: int = 1, *, both: bool = False) -> list[bytes]:
        """The account moves to another PDS with its repository: `#identity`, `#account`, `#sync`, a commit.

        At the old one it is deactivated. A relay leaves that PDS's `#account` out, since it is the account's no longer;
        with `both` it passes it on, last.
        """
        with self.lock:
            author = self.by_did[did]
            account = author.account
            account.left[account.home] = "deactivated"
            account.home = home
            account.left.pop(home, None)
            if home in self.pds_urls:
                account.settle_at(self.pds_urls[home], self.clock.micros)
            frames = [self._identity_frame(author), self._account_frame(author), self._sync_frame(author)]
            frames += self._commit_frames(author, self._post(author))
            return frames + (self.announce(did, False, "deactivated") if both else [])

    def arrive(self) -> list[bytes]:
        """A new account: `#identity`, `#account`, an empty commit, `#sync`, a profile. It is the last of `authors`."""
        with self.lock:
            return self._arrival()

    def offer_labels(self, did: str, url: str | None, key: Key | None, record: content.Record | None) -> list[bytes]:
        """The account is a labeler: its document names the server of its labels and the key that signs them (None: it
        names none), by an `#identity`; `record` is its service record, by a commit (None: it stays as it is)."""
        with self.lock:
            author = self.by_did[did]
            author.account.label_from(url, key, self.clock.micros)
            frames = [self._identity_frame(author)]
            if record is not None and (act := self._put_self(author, record)):
                frames += self._commit_frames(author, act)
            return frames

    def write(self, did: str, commits: int = 1) -> list[bytes]:
        """The account posts so many times, a commit each, whether it is active or not."""
        with self.lock:
            author = self.by_did[did]
            return [frame for _ in range(commits) for frame in self._commit_frames(author, self._post(author))]

    def tamper(self, did: str, kind: str, act: str = "post") -> list[bytes]:
        """The account writes (`act` is a name of `MIX`), and the relay sends something else (`mishaps.TAMPERED`)."""
        with self.lock:
            author = self.by_did[did]
            commit, late = self._committed(author, self._act[act](author) or self._post(author))
            return [self._frame("#commit", tampered(commit, kind).event(), late)]

    def lose(self, did: str, commits: int = 1, *, numbered: bool = True) -> list[bytes]:
        """The account posts so many times, and no frame says so; with `numbered` each uses up a sequence number."""
        with self.lock:
            author = self.by_did[did]
            for _ in range(commits):
                self._committed(author, self._post(author))
                self.seq += numbered
            return []

    def rewrite(self, did: str, *, removed: int = 4, changed: int = 2, added: int = 4) -> list[bytes]:
        """The repository is another one all at once, as after an import or a repair: only a `#sync` says so.

        Of its records `removed` go, `changed` (posts, which it edits) have other contents, and `added` posts come.
        """
        with self.lock:
            author = self.by_did[did]
            for _ in range(added):
                self._committed(author, self._post(author))
            paths = sorted(author.repository.paths())
            gone = self.rng.sample(paths, min(removed, len(paths)))
            writes = [Write("delete", path, None) for path in gone]
            posts = [path for path in paths if path.startswith("app.bsky.feed.post/") and path not in gone]
            for path in self.rng.sample(posts, min(changed, len(posts))):
                found = author.repository.get(path)
                assert found is not None
                record = libipld.decode_dag_cbor(found[1]) | {"text": content.sentence(self.rng, "en", 250) + " (anew)"}
                record.pop("facets", None)
                writes.append(Write("update", path, record))
            if writes:
                self._committed(author, writes)
            return [self._sync_frame(author)]

    # ---- time

    def follow(self, micros: int) -> None:
        """Puts the clock forward to real time (microseconds since 1970), when people watch the world."""
        with self.lock:
            self.clock.micros = max(self.clock.micros, micros)

    def step(self) -> list[bytes]:
        """Lets the next thing happen; its frames, seqs rising by one."""
        with self.lock:
            self.clock.tick(self.rng.expovariate(self.rate) * 1_000_000)
            if self.records > self.max_records:
                return self._departure() + self._arrival()
            fate = self.rng.random() * 1_000
            for chance, happen in (
                (NEW_ACCOUNTS, self._arrival),
                (IDENTITIES, self._identity_change),
                (STATUS_CHANGES, self._status_change),
                (SYNCS, lambda: [self._sync_frame(self._somebody_active())]),
            ):
                if fate < chance:
                    return happen()
                fate -= chance
            return self._commit()

    def frames(self, count: int | None = None) -> Iterator[bytes]:
        """The next `count` frames (None: without end)."""
        left = math.inf if count is None else count
        while left > 0:
            for frame in self.step():
                if left > 0:
                    yield frame
                left -= 1


_CUMULATIVE = [sum(_WEIGHTS[: i + 1]) for i in range(len(_WEIGHTS))]
