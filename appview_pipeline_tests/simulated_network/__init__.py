"""A simulated AT Protocol network: relay, labelers, PLC, DNS, PDSes; deterministic by seed, over real sockets.

Tests use `SimulatedNetwork`, makers of corpora `generate` and `write_corpus`. People start it with the command
`appview-simulated-network` (docs/simulated-network.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from appview_pipeline_tests.simulated_network.corpus import read_corpus, write_corpus
from appview_pipeline_tests.simulated_network.faults import AccountFaults
from appview_pipeline_tests.simulated_network.labelers import Labeler, Labelers
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.world import PASTS, Pasts, World

__all__ = [
    "PASTS",
    "AccountFaults",
    "Labeler",
    "Labelers",
    "Relay",
    "SimulatedNetwork",
    "World",
    "generate",
    "read_corpus",
    "write_corpus",
]


def generate(
    seed: int,
    accounts: int = 3_000,
    frames: int | None = 60_000,
    *,
    start: float | None = None,
    rate: float = 500.0,
    first_seq: int = 1,
    pasts: Pasts = PASTS,
) -> Iterator[bytes]:
    """Relay frames (`frames` of them, None: without end) of a world made from `seed`.

    `start` (seconds since 1970) is the simulated time of the first, `rate` frames pass in a simulated second; by
    default the last one happens about now. The same arguments with `start` given yield the same bytes.
    """
    if start is None:
        start = time.time() - (frames or 0) / rate * 1.5
    return World(seed, accounts, start=start, rate=rate, first_seq=first_seq, pasts=pasts).frames(frames)
