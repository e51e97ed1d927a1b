"""Generated networks as steps, which the pipeline and the reference's indexer each take in order (playing.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appview_pipeline_tests.conformance.reference.oracle import Call
from appview_pipeline_tests.simulated_network.labels import Label


@dataclass(frozen=True)
class Events:
    """Relay frames, in order."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True)
class Answers:
    """From here on directory, handles and PDSes answer so.

    `documents`: DID documents that are new or changed (None: the DID was given up). `handles`: the DID that a handle
    names (None: it names nobody any more). `statuses`: what an account's PDS says of it: "active", a hosting status, or
    "gone" (it has no such repository).
    """

    documents: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    handles: Mapping[str, str | None] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """Labels that a labeler sends in one frame of its stream."""

    seq: int
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Statement:
    """SQL that an operator, or a part of the AppView that neither side has, runs on the database."""

    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


Step = Events | Answers | Labels | Call | Statement
"""What happens. A `Call` is of a method of the data plane that writes: moderation or private state."""


@dataclass(frozen=True)
class GeneratedNetwork:
    """A network: its name, with its seed, and what happens in it."""

    name: str
    steps: tuple[Step, ...]

    @property
    def frames(self) -> list[bytes]:
        """All frames, in order."""
        return [frame for step in self.steps if isinstance(step, Events) for frame in step.frames]

    def __repr__(self) -> str:
        return f"{self.name}: {len(self.frames)} events in {len(self.steps)} steps"


def joined(steps: Sequence[Step]) -> Iterator[Step]:
    """The same steps, those of events that follow each other as one."""
    frames: list[bytes] = []
    for step in steps:
        if isinstance(step, Events):
            frames += step.frames
            continue
        if frames:
            yield Events(tuple(frames))
            frames = []
        yield step
    if frames:
        yield Events(tuple(frames))
