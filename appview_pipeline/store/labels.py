"""Labels of labelers: label events, and `bsky.label`, which follows from them (sql/apply/label.sql).

Everything that writes label events calls `apply_labels`: the streams of labelers, the label service, retries of dead
letters. The result does not depend on the order, the batches or the repetition in which label events arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.batch import DEAD_LETTER_LIMITS, DeadLetterLimits
from appview_pipeline.store.staging import Value

CHANNEL = "appview_labels"
"""Channel that is notified of what changed; docs/labels.md has the payload's form."""


class LabelRow(NamedTuple):
    """A label, or its negation (`neg`), as a labeler made it: a row of `pipeline.label_event`.

    `cid`: '' for any version. `cts_micros` and `exp_micros`: the moments of `cts` and `exp` in microseconds since 1970.
    `seq`: of the frame that it came in; None: it was made here. `signed`: the bytes under `sig` where they are not the
    canonical ones.
    """

    src: str
    uri: str
    cid: str
    val: str
    neg: bool
    cts: str
    cts_micros: int
    exp: str | None
    exp_micros: int | None
    seq: int | None
    sig: bytes | None
    signed: bytes | None


@dataclass(frozen=True)
class LabelerProgress:
    """What a batch has of one labeler's stream. `before`, `after`: the cursor before and after the batch.

    `frames`, `labels` (valid ones) and `rejected_by_kind` are counts. `newest_cts_micros`: of its labels; None: none.
    `caught_up`: with this batch everything that it had sent is applied.
    """

    did: str
    endpoint: str
    before: int
    after: int
    frames: int = 0
    labels: int = 0
    rejected_by_kind: Mapping[str, int] = field(default_factory=dict)
    newest_cts_micros: int | None = None
    caught_up: bool = False


@dataclass(frozen=True)
class LabelBatch:
    """What one transaction applies.

    `dead_letters`: rows of `stage_dead_letter` (`indexing.shared_rows.dead_letter_rows`).
    """

    rows: Sequence[LabelRow]
    progress: Sequence[LabelerProgress] = ()
    dead_letters: Sequence[Sequence[Value]] = ()


@dataclass
class LabelReport:
    """What became of a batch.

    `events`: label events in it. Of these were `added` new ones, `repeated` those that had been applied before or came
    twice, `withheld` those of labelers that have opted out. `changed`: those that changed what is in effect, which are
    broadcast. `moved`: labelers whose cursor was not where the batch began; it is left where it is, but their label
    events are applied. `first_id` and `last_id`: of the events that took effect; None: none did. `apply_ms`:
    milliseconds of the transaction, without its commit.
    """

    events: int = 0
    added: int = 0
    changed: int = 0
    repeated: int = 0
    withheld: int = 0
    moved: frozenset[str] = frozenset()
    first_id: int | None = None
    last_id: int | None = None
    apply_ms: float = 0.0

    @property
    def stale(self) -> int:
        """Those that had been applied before, as the pipeline asks for it."""
        return self.repeated


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did to the rows of `bsky.label` of a labeler: `rows` that it should have, `added` ones that were
    missing, `removed` ones without any label event, `corrected` ones that were wrong."""

    rows: int
    added: int
    removed: int
    corrected: int


def apply_labels(
    connection: Connection, batch: LabelBatch, *, limits: DeadLetterLimits = DEAD_LETTER_LIMITS
) -> LabelReport:
    """Writes a batch in the caller's transaction: label events, what follows in `bsky.label`, counts and cursors of
    labelers, dead letters, and the NOTIFY that is sent with the commit.

    From here to the commit it holds the label lock, so that ids of label events rise in the order of commits. Raises
    psycopg2's errors only.
    """
    raise NotImplementedError


def rebuild_labels(connection: Connection, src: str, *, progress: Callable[[Rebuilt], object] | None = None) -> Rebuilt:
    """Compares the rows of `bsky.label` of a labeler with its label events and repairs those that differ.

    Works in pages, and commits after each; `progress` is called then with what was done so far. May run beside
    everything that applies labels.
    """
    raise NotImplementedError


def announce_expired(connection: Connection) -> int:
    """Notifies of the labels that have expired since the last call, each once. Returns how many these are."""
    raise NotImplementedError


def remove_labels(connection: Connection, src: str, limit: int) -> int:
    """Removes up to `limit` label events of a labeler that is removed, with the rows of `bsky.label` that follow from
    them, in the caller's transaction. Returns how many: 0 once nothing of it is left."""
    raise NotImplementedError
