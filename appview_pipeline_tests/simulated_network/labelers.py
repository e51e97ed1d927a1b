"""Labelers: accounts that say what others are, by `com.atproto.label.subscribeLabels` and `queryLabels`.

Each has a server at a port of its own, with the faults of every stream server (`stream_server.Faults`); all run in one
thread. Their DID documents name server and key, their repositories hold a service record with definitions, and their
labels are really signed. They keep their streams as ozone does, or keep everything (`keeps_all`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from appview_pipeline_tests.simulated_network import content
from appview_pipeline_tests.simulated_network.accounts import Key, make_key
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.http_service import Parameters
from appview_pipeline_tests.simulated_network.labels import (
    Label,
    label_json,
    label_key,
    labels_frame,
    make_label,
    sign_label,
)
from appview_pipeline_tests.simulated_network.stream_server import LoopThread, StreamServer
from appview_pipeline_tests.simulated_network.world import World

SUBSCRIBE_LABELS = "/xrpc/com.atproto.label.subscribeLabels"
QUERY_LABELS = "/xrpc/com.atproto.label.queryLabels"
VALUES = ("spam", "rude", "spider", "!warn", "porn")
EXPIRY_SECONDS = (5.0, 3_600.0, 86_400.0)

Happen = Callable[[Callable[[], list[bytes]]], list[bytes]]


class Labeler(StreamServer):
    """One labeler's server; see the module. Use as a context manager, or `start` and `stop`.

    A frame has one label. Sequence numbers leap by up to `leap` (ozone's are row ids). `keeps_all`: every label stays
    in the stream; otherwise a newer label of the same source, subject, CID and value takes the older one out, as
    ozone's upsert does. `labels` are those in the stream now, by their seqs, but for those that were sent together in a
    frame; `published_labels` counts all. `lies` are
    fields of all labels that it makes (`make`), whatever the caller asks for.
    """

    method = SUBSCRIBE_LABELS
    name = "labeler"

    def __init__(
        self,
        did: str,
        key: Key,
        *,
        keeps_all: bool = False,
        leap: int = 1,
        port: int = 0,
        window_bytes: int = 1_000_000_000,
        ping_interval: float = 30.0,
        thread: LoopThread | None = None,
    ) -> None:
        super().__init__(port=port, window_bytes=window_bytes, ping_interval=ping_interval, thread=thread)
        self.did = did
        self.key = key
        self.keeps_all = keeps_all
        self.leap = leap
        self.labels: dict[int, Label] = {}
        self.published_labels = 0
        self.lies: dict[str, Any] = {}
        self._newest: dict[tuple[str, str, str, str], int] = {}  # seq of the newest label in the stream, by its key
        self._together: dict[int, Sequence[Label]] = {}
        self._leaps = Random(f"simnet leaps {did}")

    @property
    def endpoint(self) -> str:
        """The address in its DID document."""
        return f"http://{self.host}:{self.port}"

    @property
    def seq(self) -> int:
        """The newest sequence number."""
        return self.window.newest_seq

    # ---- labels

    def make(self, uri: str, val: str, **fields: Any) -> Label:
        """A label of its own, made now unless `cts` says when. Other fields: see `make_label`; `signed` False: without
        a signature; `src` and `key` are for a labeler that lies."""
        made = {"src": self.did, "cts": iso(time.time_ns() // 1_000), "key": self.key, **fields, **self.lies}
        key, signed = made.pop("key"), made.pop("signed", True)
        return make_label(key if signed else None, uri=uri, **{"val": val, **made})

    def label(self, uri: str, val: str, **fields: Any) -> Label:
        """Makes a label and publishes it."""
        made = self.make(uri, val, **fields)
        self.send([made])
        return made

    def send(self, labels: Iterable[Label]) -> list[int]:
        """Publishes labels as they are, a frame each; returns the sequence numbers."""
        seqs = self.prepare(labels)
        self.wake()
        return seqs

    def prepare(self, labels: Iterable[Label]) -> list[int]:
        """The same, but clients that have read everything notice it at the next `wake` only."""
        with self.lock:
            return [self._append_label(label) for label in labels]

    def send_together(self, labels: Sequence[Label]) -> int:
        """Publishes labels in one frame, which stays in the stream whatever comes; returns its sequence number."""
        with self.lock:
            seq = self._next_seq()
            self.window.append(seq, labels_frame(seq, labels))
            self._together[seq] = labels
            self._newest.update({label_key(label): seq for label in labels})
            self.published_labels += len(labels)
        self.wake()
        return seq

    def send_raw(self, message: bytes | str) -> int:
        """Publishes any message, binary or (str) text; returns the sequence number of its place in the stream."""
        with self.lock:
            seq = self._next_seq()
            self.window.append(seq, b"")
            self.faults.damage[seq] = [message]
        self.wake()
        return seq

    def _next_seq(self) -> int:
        return self.seq + self._leaps.randint(1, self.leap)

    def _append_label(self, label: Label) -> int:
        seq = self._next_seq()
        self.window.append(seq, labels_frame(seq, [label]))
        self.published_labels += 1
        key = label_key(label)
        older = self._newest.get(key)
        if older is not None and not self.keeps_all:
            self._take_out(older)
        self._newest[key] = seq
        self.labels[seq] = label
        return seq

    def _frames(self) -> list[tuple[int, Sequence[Label]]]:
        """The labels in the stream, by their frames, oldest first."""
        alone: list[tuple[int, Sequence[Label]]] = [(seq, [label]) for seq, label in self.labels.items()]
        return sorted([*alone, *self._together.items()], key=lambda frame: frame[0])

    def _take_out(self, seq: int) -> None:
        if self.labels.pop(seq, None) is not None:
            self.window.remove(self.window.after(seq - 1))

    # ---- what happens to it

    def sign_again(self, key: Key) -> None:
        """Has another key from now on, and all of its stream carries signatures of that key, as with ozone."""
        with self.lock:
            self.key = key
            self.labels = {seq: _signed_again(key, label) for seq, label in self.labels.items()}
            self._together = {
                seq: [_signed_again(key, label) for label in labels] for seq, labels in self._together.items()
            }
            for seq, labels in self._frames():
                self.window.replace(self.window.after(seq - 1), labels_frame(seq, labels))

    def restore(self, seq: int) -> None:
        """Restored from a backup: what came after `seq` is gone, its numbers are given out again; connections end."""
        with self.lock:
            self.window.forget_after(seq)
            self.labels = {number: label for number, label in self.labels.items() if number <= seq}
            self._together = {number: labels for number, labels in self._together.items() if number <= seq}
            self._newest = {label_key(label): number for number, labels in self._frames() for label in labels}
            self.faults.damage = {number: sent for number, sent in self.faults.damage.items() if number <= seq}
        self.disconnect_all()

    def forget_before(self, seq: int) -> None:
        super().forget_before(seq)
        with self.lock:
            self.labels = {number: label for number, label in self.labels.items() if number >= seq}

    # ---- com.atproto.label.queryLabels

    def query(self, path: str, parameters: Parameters) -> tuple[int, Any] | None:
        if path != QUERY_LABELS:
            return None
        patterns = parameters.get("uriPatterns", [])
        limit, after = parameters.get("limit", ["50"])[-1], parameters.get("cursor", ["0"])[-1]
        if not patterns or not (limit.isdigit() and 1 <= int(limit) <= 250) or not after.isdigit():
            return 400, {"error": "InvalidRequest", "message": "uriPatterns, limit (1 to 250) or cursor is wrong"}
        sources = parameters.get("sources")
        with self.lock:
            found = [
                (seq, label)
                for seq, labels in self._frames()
                for label in labels
                if seq > int(after)
                and seq == self._newest[label_key(label)]
                and (sources is None or label["src"] in sources)
                and any(_matches(label["uri"], pattern) for pattern in patterns)
            ][: int(limit)]
        more = {"cursor": str(found[-1][0])} if found else {}
        return 200, {"labels": [label_json(label) for _, label in found]} | more


def _signed_again(key: Key, label: Label) -> Label:
    return sign_label(key, label) if "sig" in label else label


def _matches(uri: str, pattern: str) -> bool:
    return uri.startswith(pattern[:-1]) if pattern.endswith("*") else uri == pattern


class Labelers(Sequence[Labeler]):
    """The labelers of a simulated network, in the order in which they came.

    `happen` publishes frames of the relay. A label is drawn from a generator of its own: the world stays what it is.
    """

    def __init__(self, world: World, happen: Happen, *, seed: int) -> None:
        self.world = world
        self.seed = seed
        self._happen = happen
        self._rng = Random(f"simnet labels {seed}")
        self._all: list[Labeler] = []
        self._moved: list[Labeler] = []  # servers where some of them were before
        self._thread: LoopThread | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]

    def __iter__(self) -> Iterator[Labeler]:
        return iter(self._all)

    @property
    def published(self) -> int:
        """Labels and negations, of all of them."""
        return sum(labeler.published_labels for labeler in self._all)

    # ---- labelers come and change

    def add(self, *, p256: bool = False, announced: bool = True, **options: Any) -> Labeler:
        """A new account that is a labeler: the relay has its `#identity`, `#account` and service record.

        `announced` False: the relay says nothing of it, and its document alone has it. `options`: see `Labeler`.
        """
        key = self._new_key(p256=p256)
        frames = self.world.arrive()
        did = self.world.authors[-1].did
        labeler = Labeler(did, key, thread=self._running(), **options).start()
        record = content.labeler(self._rng, iso(self.world.clock.micros))
        frames += self.world.offer_labels(did, labeler.endpoint, key, record)
        if announced:
            self._happen(lambda: frames)
        self._all.append(labeler)
        return labeler

    def rotate_key(self, labeler: Labeler, *, p256: bool = False, signs_again: bool = True, says: bool = True) -> None:
        """Another key signs its labels; those in its stream too with `signs_again`. The relay `says` so."""
        key = self._new_key(p256=p256)
        self._publish(labeler.did, labeler.endpoint, key, says=says)
        if signs_again:
            labeler.sign_again(key)
        labeler.key = key

    def move(self, labeler: Labeler, *, says: bool = True) -> Labeler:
        """It has another, empty server at another port, which takes its place in this list; the old one refuses
        connections. The relay `says` so."""
        moved = Labeler(
            labeler.did, labeler.key, keeps_all=labeler.keeps_all, leap=labeler.leap, thread=self._running()
        ).start()
        self._all[self._all.index(labeler)] = moved
        self._moved.append(labeler)
        labeler.refuse()
        self._publish(moved.did, moved.endpoint, moved.key, says=says)
        return moved

    def withdraw(self, labeler: Labeler, *, key: bool = True, server: bool = True, says: bool = True) -> None:
        """Its document names no label `key`, or no `server` of labels, any more."""
        self._publish(labeler.did, None if server else labeler.endpoint, None if key else labeler.key, says=says)

    def _publish(self, did: str, url: str | None, key: Key | None, *, says: bool) -> None:
        frames = self.world.offer_labels(did, url, key, None)
        if says:
            self._happen(lambda: frames)

    def _new_key(self, *, p256: bool) -> Key:
        return make_key(f"simnet labels {self.seed} {self._rng.random()}", p256=p256)

    # ---- they label

    def label(self, count: int = 1) -> list[Label]:
        """Lets them label `count` times: mostly new posts, some accounts; some labels expire, some are taken back."""
        made = []
        for _ in range(count if self._all else 0):
            labeler: Labeler = self._rng.choice(self._all)
            draw = self._rng.random()
            if draw < 0.1 and labeler.labels:
                made.append(self._take_back(labeler))
            elif (subject := self._subject(draw)) is not None:
                uri, version = subject
                expires = self._rng.random() < 0.05
                exp = iso(time.time_ns() // 1_000 + int(self._rng.choice(EXPIRY_SECONDS) * 1e6)) if expires else None
                made.append(labeler.label(uri, self._rng.choice(VALUES), cid=version, exp=exp))
        return made

    def _take_back(self, labeler: Labeler) -> Label:
        """Takes back one of its newest labels."""
        with labeler.lock:
            newest = list(islice(reversed(labeler.labels.values()), 200))
        label = self._rng.choice(newest)
        return labeler.label(label["uri"], label["val"], cid=label.get("cid"), neg=True)

    def _subject(self, draw: float) -> tuple[str, str | None] | None:
        """An account, or a post with or without its CID."""
        with self.world.lock:
            posts = self.world.recent.members
            if draw < 0.25 or not posts:
                return self._rng.choice(self.world.authors).did, None
            ref = self._rng.choice(posts).ref
            return ref.uri, ref.cid if self._rng.random() < 0.5 else None

    # ---- life

    def _running(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread("simulated-labelers")
        return self._thread

    def stop(self) -> None:
        for labeler in [*self._all, *self._moved]:
            labeler.stop()
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
