"""Labelers of the simulated network in a process of their own, and its parent's side.

Speaks lines of JSON. The labels are made and signed before anything is measured; an order publishes them all at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random
from types import TracebackType
from typing import Any

from appview_pipeline.protocol import cid
from appview_pipeline_tests.simulated_network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.labelers import Labeler
from appview_pipeline_tests.simulated_network.labels import Label
from appview_pipeline_tests.support.checkout import CHECKOUT

VALUES = ("spam", "rude", "spider", "!warn", "porn", "sexual", "graphic-media")
START = 1_750_000_000_000_000
_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"


def made_labels(labeler: Labeler, count: int, rng: Random, *, signed: bool) -> Iterator[Label]:
    """Labels as a moderation service makes them: of 100, 90 about something new (three of four about a post, with its
    CID), 6 negations and 4 labels said anew."""
    recent: list[Label] = []
    micros = START
    for _ in range(count):
        micros += rng.randrange(1, 100_000)
        fields: dict[str, Any] = {}
        if len(recent) > 50 and (draw := rng.random()) < 0.1:
            earlier = rng.choice(recent)
            uri, val, fields = earlier["uri"], earlier["val"], {"cid": earlier.get("cid"), "neg": draw < 0.06}
        else:
            val = rng.choice(VALUES)
            uri = "did:plc:" + _random(rng, 24)
            if rng.random() < 0.75:
                uri = f"at://{uri}/app.bsky.feed.post/3l{_random(rng, 11)}"
                fields = {"cid": cid.to_text(cid.cid_for_cbor(rng.randbytes(8)))}
        label = labeler.make(uri, val, cts=iso(micros), signed=signed, **fields)
        recent.append(label)
        if len(recent) > 2_000:
            del recent[:1_000]
        yield label


def _random(rng: Random, characters: int) -> str:
    bits = rng.getrandbits(5 * characters)
    return "".join(_ALPHABET[bits >> 5 * at & 31] for at in range(characters))


class LabelNetwork:
    """The process, from its parent. `environment`: the settings of whoever reads it; `dids`: the labelers."""

    def __init__(self, labelers: int, labels: int, *, signed: bool, p256: bool = False) -> None:
        options = ["--labelers", str(labelers), "--labels", str(labels)]
        options += ["--signed"] if signed else []
        options += ["--p256"] if p256 else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "appview_pipeline_tests.benchmark.label_network", *options],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        ready = self._answer()
        self.environment: dict[str, str] = ready["environment"]
        self.dids: list[str] = ready["dids"]
        self.relay_url: str = ready["relay_url"]
        self.bytes: int = ready["bytes"]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the labelers' process has ended"
        return json.loads(line)

    def _ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def publish(self) -> float:
        """Publishes all labels; returns when (monotonic clock)."""
        return float(self._ask("publish"))

    def connected(self) -> int:
        """How many labelers have a client that has read everything."""
        return int(self._ask("connected"))

    def __enter__(self) -> LabelNetwork:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def serve(labelers: int, labels: int, *, signed: bool, p256: bool) -> None:
    """Serves until stdin ends."""
    rng = Random("benchmark labels")
    with SimulatedNetwork(seed=3, accounts=2) as network:
        for _ in range(labelers):
            network.labelers.add(keeps_all=True, p256=p256)
        made = {it: list(made_labels(it, labels // labelers, rng, signed=signed)) for it in network.labelers}
        size = len(json.dumps([str(label) for label in made[network.labelers[0]][:100]])) // 100
        _say(
            {
                "environment": network.environment(),
                "dids": [labeler.did for labeler in network.labelers],
                "relay_url": network.relay_url,
                "bytes": size,
            }
        )
        for line in sys.stdin:
            if line.strip() == "connected":
                _say(sum(labeler.live > 0 for labeler in network.labelers))
                continue
            for labeler, theirs in made.items():
                labeler.prepare(theirs)
            at = time.monotonic()
            for labeler in network.labelers:
                labeler.wake()
            _say(at)


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--labelers", type=int, required=True)
    parser.add_argument("--labels", type=int, required=True)
    parser.add_argument("--signed", action="store_true")
    parser.add_argument("--p256", action="store_true")
    given = parser.parse_args()
    serve(given.labelers, given.labels, signed=given.signed, p256=given.p256)
