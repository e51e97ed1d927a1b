"""Plays generated networks: into a database of ours through the pipeline, into another through the reference."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import libipld

from appview_pipeline.identity.attempt import Questions, attempt
from appview_pipeline.identity.dids import Resolution
from appview_pipeline.identity.documents import parse_document
from appview_pipeline.identity.handles import HandleCheck
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store import accounts, identities
from appview_pipeline.store.accounts import PdsStatus
from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference.generated import (
    Answers,
    Events,
    GeneratedNetwork,
    Labels,
    Statement,
    Step,
    joined,
)
from appview_pipeline_tests.conformance.reference.oracle import Call, Oracle, Refused
from appview_pipeline_tests.conformance.reference.other_state import write_labels
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.changes import COLLECTIONS, validators
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.label_rows import apply_rows, rows_of_wire


@dataclass
class Directory:
    """What directory, handles and PDSes answer now; who is in no document is unknown."""

    documents: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    handles: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    def follow(self, answers: Answers) -> None:
        """Answers so from now on."""
        self.documents.update(answers.documents)
        self.statuses.update(answers.statuses)
        for handle, did in answers.handles.items():
            if did is None:
                self.handles.pop(handle, None)
            else:
                self.handles[handle] = did

    @property
    def questions(self) -> Questions:
        """As the identity process asks them."""
        return Questions(self._resolve, self._check, self._status)

    def _resolve(self, did: str, is_repeated: bool) -> Resolution:
        document = self.documents.get(did)
        if document is None:
            state = "tombstoned" if did in self.documents else "not found"
            return Resolution(did, state, "plc", reason=state)
        return Resolution(did, "found", "plc", parse_document(did, document), "{}")

    def _check(self, did: str, handle: str) -> HandleCheck:
        found = self.handles.get(handle)
        if found == did:
            return HandleCheck(handle, True, did, "dns", None, is_final=True)
        return HandleCheck(handle, False, found, None, "it names another account or none", is_final=True)

    def _status(self, did: str, pds: str | None, state: str | None) -> PdsStatus:
        if state == "tombstoned":
            return PdsStatus(did, accounts.TOMBSTONED, is_final=True)
        return PdsStatus(did, self.statuses.get(did, accounts.ACTIVE), is_final=True)


def resolve_queued(database: Database, directory: Directory) -> None:
    """Resolves every account that waits, as the identity process does, and removes those that are gone."""
    usable = Settings().identity_usable_seconds
    while True:
        with database.connect("writer") as connection:
            taken = [it for queue in identities.QUEUES for it in identities.take(connection, queue, 1_000, 60.0)]
        if not taken:
            break
        found = [attempt(wanted, directory.questions) for wanted in taken]
        with database.connect("writer") as connection:
            accounts.save_statuses(connection, [it.status for it in found if it.status is not None])
        with database.connect("writer") as connection:
            identities.save(connection, [it.settled for it in found if it.settled is not None], usable_seconds=usable)
    summary = remove_accounts(Settings(database_url=database.url), database)
    assert summary.failed is None, summary.failed


def run(url: str, statement: Statement) -> None:
    """Runs a statement and commits it."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement.sql, dict(statement.parameters) or None)
        connection.commit()


class Pipeline:
    """Our side. `size`: of its batches; 0: as large as the steps allow. `disorder`: a seed; frames then arrive in
    another order, each repository's own kept, and some twice. `name`: as the oracle has opened the database."""

    def __init__(
        self, oracle: Oracle, name: str, database: Database, *, size: int = 100, disorder: int | None = None
    ) -> None:
        self.oracle, self.name, self.database = oracle, name, database
        self.directory = Directory()
        self._size = size
        self._rng = None if disorder is None else random.Random(disorder)

    def take(self, step: Step) -> None:
        """Takes a step; calls are made by the reference's data plane over our database."""
        if isinstance(step, Answers):
            self.directory.follow(step)
        elif isinstance(step, Events):
            frames = step.frames if self._rng is None else disturbed(step.frames, self._rng)
            changes = read_changes(frames, validators(), COLLECTIONS)
            feed(self.database, batches_of(changes, self._size))
            resolve_queued(self.database, self.directory)
        elif isinstance(step, Labels):
            apply_rows(self.database, rows_of_wire(step.seq, step.labels))
        elif isinstance(step, Call):
            self.oracle.run(self.name, step.method, **step.request)
        elif isinstance(step, Statement):
            run(self.database.url, step)


class Reference:
    """The reference's side: its indexer, one event at a time, into the database that the oracle has opened as `name`.

    `refused`: what it did not index, by the number of the event among all.
    """

    def __init__(self, oracle: Oracle, name: str, url: str) -> None:
        self.oracle, self.name, self.url = oracle, name, url
        self.directory = Directory()
        self.refused: list[Refused] = []
        self._events = 0

    def take(self, step: Step) -> None:
        """Takes a step. No program of the reference reads labelers' streams: labels become rows, as ozone's do."""
        if isinstance(step, Answers):
            self.directory.follow(step)
            it = self.directory
            gone = [did for did, status in it.statuses.items() if status == accounts.GONE]
            self.oracle.identities({did: found for did, found in it.documents.items() if found}, it.handles, gone)
        elif isinstance(step, Events):
            found = self.oracle.index(self.name, step.frames)
            self.refused += [replace(it, position=it.position + self._events) for it in found]
            self._events += len(step.frames)
        elif isinstance(step, Labels):
            write_labels(self.url, step.labels)
        elif isinstance(step, Call):
            self.oracle.run(self.name, step.method, **step.request)
        elif isinstance(step, Statement):
            run(self.url, step)


def disturbed(frames: Sequence[bytes], rng: random.Random, *, repeated: float = 0.1) -> list[bytes]:
    """The frames in any order in which those of each account keep theirs; some arrive again later."""
    queues: dict[str, list[bytes]] = {}
    for frame in frames:
        body = libipld.decode_dag_cbor_multi(frame)[1]
        queues.setdefault(body.get("repo") or body["did"], []).append(frame)
    turns = [did for did, queue in queues.items() for _ in queue]
    rng.shuffle(turns)
    found = [queues[did].pop(0) for did in turns]
    for frame in rng.sample(found, int(len(found) * repeated)):
        found.insert(rng.randint(found.index(frame), len(found)), frame)
    return found


def play(network: GeneratedNetwork, *sides: Pipeline | Reference) -> None:
    """Lets all sides take the network's steps, in turn, so that the oracle's clock is the same to them."""
    for step in joined(network.steps):
        for side in sides:
            side.take(step)
