"""What each stage of the client costs by itself, without network and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

from appview_pipeline.indexing.batch import build
from appview_pipeline.indexing.events import read_change
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.indexing.validators import record_validators
from appview_pipeline.protocol.commit import read_commit
from appview_pipeline.protocol.frames import Commit, decode_frame
from appview_pipeline.store.staging import copy_text
from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.simulated_network.corpus import read_corpus

BATCH = 5_000


def stages(corpus: Corpus) -> dict[str, float]:
    """CPU microseconds a frame of each stage, the best of three. This revision's code, in this process."""
    frames = list(islice(read_corpus(corpus.path), 4 * BATCH))
    validators, collections = record_validators(), IndexedCollections()
    now = time.time_ns() // 1_000
    events = [decode_frame(frame) for frame in frames]
    changes = [read_change(e, f, now, validators, collections) for e, f in zip(events, frames, strict=True)]

    def commits() -> None:
        for event in events:
            if isinstance(event, Commit):
                read_commit(event, now, collections)

    def whole_changes() -> None:
        for event, frame in zip(events, frames, strict=True):
            read_change(event, frame, now, validators, collections)

    def rows() -> None:
        for start in range(0, len(changes), BATCH):
            build(changes[start : start + BATCH], "benchmark")

    batch = build(changes[:BATCH], "benchmark")

    def copies() -> None:
        for table in batch.rows.values():
            if table:
                copy_text(table)

    def best(stage: Callable[[], object], count: int = len(frames)) -> float:
        timings = []
        for _ in range(3):
            began = time.process_time()
            stage()
            timings.append(time.process_time() - began)
        return min(timings) / count * 1e6

    commit = best(commits)
    return {
        "envelope (decode_frame)": best(lambda: [decode_frame(frame) for frame in frames]),
        "commit, CAR, hashes, records, JSON": commit,
        "lexicon, collection rules, change": best(whole_changes) - commit,
        "batch: newest states, rows": best(rows),
        "COPY text": best(copies, min(BATCH, len(frames))),
    }
