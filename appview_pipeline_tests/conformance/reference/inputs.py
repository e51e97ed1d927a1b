"""The same input in two databases: the reference's, one event at a time, and ours, through the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from appview_pipeline.identity.attempt import Questions
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import parse_document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.indexing.changes import Change
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.oracle import Oracle, Refused, reference_database
from appview_pipeline_tests.conformance.reference.other_state import write_labels
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.changes import COLLECTIONS, validators
from appview_pipeline_tests.support.scenario_directory import Directory, resolve_queued
from appview_pipeline_tests.support.scenario_playing import play, segments
from appview_pipeline_tests.support.scenarios import Scenario
from appview_pipeline_tests.support.tables import fresh_database

BATCH = 7
"""Events of a batch of ours: few, so that a scenario has several."""


@dataclass
class Both:
    """The two databases with one input. `ours`: our database. `urls`: of the reference's and of ours. `records`: by URI
    the record of the newest rev that was written so far. `deleted`: URIs of deletions. `refused`: what the reference
    refused."""

    ours: Database
    urls: tuple[str, str]
    records: dict[str, RecordWrite] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    refused: list[Refused] = field(default_factory=list)


@contextmanager
def both(
    oracle: Oracle, server: EmbeddedPostgres, templates: tuple[str, str], names: tuple[str, str] = ("theirs", "ours")
) -> Iterator[Both]:
    """Two databases that are new, from `templates` (the reference's, ours), open in the oracle as `names`."""
    theirs, ours = names
    with reference_database(server, templates[0]) as url, fresh_database(server, templates[1]) as database:
        oracle.open(theirs, url)
        oracle.open(ours, database.url)
        try:
            yield Both(database, (url, database.url))
        finally:
            for name in oracle.urls.keys() & set(names):
                oracle.close(name)


def play_both(oracle: Oracle, made: Both, scenario: Scenario, name: str = "theirs") -> Iterator[str]:
    """Plays a conformance scenario into both; yields each checkpoint."""
    directory = Directory(scenario.actors)
    frames = iter(scenario.frames)
    parts = zip(segments(scenario, "frames"), scenario.directory_steps(), scenario.label_steps(), strict=True)
    for checkpoint, ((_, changes), steps, labels) in zip(
        play(made.ours, scenario, "frames", BATCH), parts, strict=True
    ):
        directory.follow(steps)
        directory.hear(changes)
        oracle.identities(directory.documents(), directory.handles(), directory.gone())
        made.refused += oracle.index(name, [next(frames) for _ in changes])
        write_labels(made.urls[0], [label for _, some in labels for label in some])
        _note(made, changes)
        yield checkpoint


@dataclass(frozen=True)
class Identities:
    """An identity directory that does not change. `documents`: by DID. `handles`: DID by handle."""

    documents: dict[str, dict[str, Any]]
    handles: dict[str, str]

    @property
    def questions(self) -> Questions:
        """As our resolution asks them. Every account is active."""
        return Questions(self._resolve, self._check, lambda did, pds, state: PdsStatus(did, "active", is_final=True))

    def _resolve(self, did: str, is_repeated: bool) -> Resolution:
        document = self.documents.get(did)
        if document is None:
            return Resolution(did, "not found", "plc", reason="it is not in the directory")
        return Resolution(did, "found", "plc", parse_document(did, document), "{}")

    def _check(self, did: str, handle: str) -> HandleCheck:
        if self.handles.get(handle) == did:
            return HandleCheck(handle, True, did, "dns", None, is_final=True)
        return HandleCheck(handle, False, None, None, "it does not resolve", is_final=True)


def corpus_identities(conformance: Path) -> Identities:
    """The documents and handles of the accounts of the corpus, as the network gave them."""
    folder = conformance / "frames" / "jetstream-corpus"
    packed = (folder / "did_docs.json.zst").read_bytes()
    documents = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    directory = json.loads((folder / "directory.json").read_bytes())
    return Identities(documents, {it["handle"]: it["did"] for it in directory.values()})


def index_corpus(oracle: Oracle, made: Both, conformance: Path, name: str = "theirs") -> None:
    """Indexes the real frames of the corpus into both."""
    index_both(
        oracle,
        made,
        list(read_corpus(conformance / "frames" / "jetstream-corpus" / "frames.bin.zst")),
        corpus_identities(conformance),
        name,
    )


def index_both(
    oracle: Oracle, made: Both, frames: Sequence[bytes], identities: Identities, name: str = "theirs"
) -> None:
    """Indexes frames into both; the accounts' identities are those from the beginning to the end."""
    changes = read_changes(list(frames), validators(), COLLECTIONS)
    feed(made.ours, batches_of(changes, BATCH))
    resolve_queued(made.ours, identities)
    oracle.identities(identities.documents, identities.handles)
    made.refused += oracle.index(name, frames)
    _note(made, changes)


def _note(made: Both, changes: Sequence[Change]) -> None:
    """Remembers the records that changes write or delete."""
    for change in changes:
        made.deleted |= {it.uri for it in change.deletes}
        for write in change.writes:
            known = made.records.get(write.uri)
            if known is None or known.rev <= write.rev:
                made.records[write.uri] = write
