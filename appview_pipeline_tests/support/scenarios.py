"""The conformance scenarios (shared/conformance/scenarios/README.md): their steps, and their frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appview_pipeline.indexing.changes import AccountState, Change, IdentityEvent
from appview_pipeline.ingest.decoding import read_changes
from appview_pipeline_tests.simulated_network.corpus import read_corpus
from appview_pipeline_tests.support.changes import COLLECTIONS, change_of, validators
from appview_pipeline_tests.support.commits import Commit, Op
from appview_pipeline_tests.support.states import State


@dataclass(frozen=True)
class Scenario:
    """A file of conformance/scenarios. `facts`: what must hold `at` a checkpoint ("final": the end). `effective`: the
    labels (src, uri, val) that are in effect at one, where the scenario says so."""

    id: str
    steps: list[dict[str, Any]]
    facts: list[dict[str, Any]]
    expected: dict[str, State]
    frames: list[bytes]
    actors: dict[str, dict[str, str]] = field(default_factory=dict)
    effective: dict[str, set[tuple[str, str, str]]] = field(default_factory=dict)

    def directory_steps(self) -> list[list[dict[str, Any]]]:
        """What the identity directory answers from each segment on; a segment ends with a checkpoint."""
        found: list[list[dict[str, Any]]] = [[]]
        seen_events = False
        for step in self.steps:
            if "directory" in step:
                assert not seen_events, f"{self.id}: the directory changes between two checkpoints"
                found[-1].append(step["directory"])
            elif "checkpoint" in step:
                found.append([])
                seen_events = False
            else:
                seen_events = True
        return found

    def label_steps(self) -> list[list[tuple[int, list[dict[str, Any]]]]]:
        """The labels that labelers send up to each checkpoint, by frame: its sequence number, and what is in it."""
        found: list[list[tuple[int, list[dict[str, Any]]]]] = [[]]
        for step in self.steps:
            if "labels" in step:
                found[-1].append((step["labels"]["seq"], step["labels"]["labels"]))
            elif "checkpoint" in step:
                found.append([])
        return found

    def changes(self) -> list[tuple[str, list[Change]]]:
        """The changes up to each checkpoint, from the steps."""
        return self._segments([_change_of_step(step) for step in self.steps if _is_event(step)])

    def changes_of_frames(self) -> list[tuple[str, list[Change]]]:
        """The changes up to each checkpoint, from the wire frames."""
        return self._segments(read_changes(self.frames, validators(), COLLECTIONS))

    def _segments(self, changes: Sequence[Change]) -> list[tuple[str, list[Change]]]:
        assert len(changes) == sum(map(_is_event, self.steps)), f"{self.id}: not a frame for every event"
        following = iter(changes)
        segments: list[tuple[str, list[Change]]] = [("", [])]
        for step in self.steps:
            if _is_event(step):
                segments[-1][1].append(next(following))
            elif "checkpoint" in step:
                segments[-1] = (step["checkpoint"], segments[-1][1])
                segments.append(("", []))
        segments[-1] = ("final", segments[-1][1])
        return segments


def load(conformance: Path) -> list[Scenario]:
    """All scenarios, by number."""
    found = []
    for path in sorted((conformance / "scenarios").glob("[0-9]*.json")):
        document = json.loads(path.read_text())
        frames = list(read_corpus(conformance / "scenarios" / document["frames"]["file"]))
        found.append(
            Scenario(
                id=document["id"],
                steps=document["steps"],
                facts=document["facts"],
                expected=document["expected"],
                frames=frames,
                actors=document["actors"],
                effective={
                    it["at"]: {(src, uri, val) for src, uri, val in it["effective"]}
                    for it in document.get("spec_expectations", ())
                    if "effective" in it
                },
            )
        )
    return found


def _is_event(step: dict[str, Any]) -> bool:
    return not step.keys().isdisjoint(("commit", "account", "identity"))


def _change_of_step(step: dict[str, Any]) -> Change:
    if "account" in step:
        event = step["account"]
        account = AccountState(event["did"], event["active"], event.get("status"), event["time"])
        return Change(0, event["seq"], event["time"], is_event=True, account=account)
    if "identity" in step:
        event = step["identity"]
        identity = IdentityEvent(event["did"], event["time"], event["seq"])
        return Change(0, event["seq"], event["time"], is_event=True, identity=identity)
    event = step["commit"]
    ops = tuple(
        Op(op["action"], op["collection"], op["rkey"], op.get("cid"), op.get("record"))
        for op in event["ops"]
        if not op.get("omitBlock")
    )
    return change_of(Commit(event["did"], event["rev"], event["time"], ops), event["seq"], event["since"])
