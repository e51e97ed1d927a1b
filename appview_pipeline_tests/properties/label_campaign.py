"""Labels are what the labelers say: `python -m appview_pipeline_tests.properties.label_campaign` (docs/testing.md).

Many labelers of a simulated network at once, of which some are broken, and some are restarted or change their keys; the
label process is killed at random moments, and PostgreSQL is restarted. Then the labelers come to rest, and the tables
must be what a plain model (`support/label_model.py`) says of the labels that were sent.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import click

from appview_pipeline.labels.label_process import COMMAND
from appview_pipeline.protocol.label import Label, canonical_bytes
from appview_pipeline.protocol.signing import VerifyingKey, parse_did_key
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database, open_database
from appview_pipeline.store.labels import LabelRow
from appview_pipeline_tests.properties.random_labels import label_row, random_labels
from appview_pipeline_tests.simulated_network import Labeler, SimulatedNetwork
from appview_pipeline_tests.simulated_network.accounts import multikey
from appview_pipeline_tests.simulated_network.broken_labelers import break_some
from appview_pipeline_tests.support.consumers import Consumer
from appview_pipeline_tests.support.label_model import LabelModel
from appview_pipeline_tests.support.restarted_server import restartable
from appview_pipeline_tests.support.tables import rows

Say = Callable[[str], None]
STEP_SECONDS = 0.05
EXAMPLES = 5
SIGNATURES = 2_000
"""Stored signatures that are verified again."""
TOGETHER = 7
"""Labels in one frame, at most."""
OF_BROKEN = 20
"""Labels of each broken labeler."""
REJECTED = {
    "wrong key": "label-signature",
    "unsigned": "label-unsigned",
    "another source": "label-source",
    "future": "label-future",
    "bad syntax": "label-syntax",
}
"""Ways of broken labelers whose streams are read to the end, and the kind of dead letter of each of their labels."""


@dataclass(frozen=True)
class Plan:
    """`labelers`, of which the last ones are `broken`, send so many `labels` in about `seconds`; meanwhile the label
    process is killed `kills` times, and so are the sound labelers' connections. `patience`: seconds without progress
    after which the campaign has failed.
    """

    labels: int = 200_000
    labelers: int = 50
    broken: int = 10
    kills: int = 10
    seed: int = 1
    seconds: float = 20.0
    patience: float = 120.0


@dataclass
class Found:
    """What was found at rest. `differences` by kind, in words, a few examples each; `different` counts all."""

    labels: int = 0
    events: int = 0
    stored: int = 0
    in_effect: int = 0
    repeated: int = 0
    seconds: float = 0.0
    killed: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)
    different: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def differs(self, what: str, examples: Iterable[object]) -> None:
        """Notes what differs, if anything does."""
        found = list(examples)
        if found:
            self.different[what] += len(found)
            self.differences += [f"{what}: {example}" for example in found[:EXAMPLES]]


class LabelProcess(Consumer):
    """A running label process."""

    command = COMMAND


class _Process:
    """The label process, which is started again when it has ended. A context manager."""

    def __init__(self, database_url: str, relay_url: str, environment: dict[str, str]) -> None:
        self._arguments = (database_url, relay_url)
        self._environment = environment
        self._running: LabelProcess | None = None
        self.killed = 0
        self.ended: Counter[int] = Counter()
        self.said: list[str] = []

    def keep_running(self) -> None:
        if self._running is not None and (code := self._running.process.poll()) is not None:
            self.ended[code] += 1
            self._take_down()
        if self._running is None:
            self._running = LabelProcess(*self._arguments, **self._environment)

    def kill(self) -> None:
        if self._running is not None:
            self._running.process.send_signal(signal.SIGKILL)
            self._running.process.wait()
            self._take_down()
            self.killed += 1
        self.keep_running()

    def _take_down(self) -> None:
        assert self._running is not None
        self._running.clean_up()
        self.said += self._running.lines
        self._running = None

    def last_words(self) -> str:
        return "".join([*self.said, *(self._running.lines if self._running else [])][-30:])

    def __enter__(self) -> _Process:
        self.keep_running()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._take_down()


@dataclass
class _Speech:
    """What one labeler will send, in frames; `rows` is what has been sent of it."""

    labeler: Labeler
    frames: Iterator[Sequence[dict[str, Any]]]
    rows: list[LabelRow] = field(default_factory=list)
    changes_key: bool = False

    def send(self, count: int) -> int:
        """Sends about `count` labels; returns how many it were."""
        sent = 0
        while sent < count and (labels := next(self.frames, None)):
            if len(labels) == 1:
                (seq,) = self.labeler.send(labels)
            else:
                seq = self.labeler.send_together(labels)
            self.rows += [label_row(label, seq) for label in labels]
            sent += len(labels)
        return sent


def _frames(labeler: Labeler, count: int, rng: Random) -> Iterator[Sequence[dict[str, Any]]]:
    """Labels of a labeler, mostly one in a frame; ozone never sends more."""
    labels = random_labels(labeler, count, rng)
    while True:
        many = rng.randint(2, TOGETHER) if labeler.keeps_all and rng.random() < 0.1 else 1
        frame = [label for _, label in zip(range(many), labels, strict=False)]
        if not frame:
            return
        yield frame


def run(database: Database, plan: Plan, say: Say, *, restart: Callable[[], object]) -> Found:
    """Runs the campaign on an empty, migrated database. `restart` restarts PostgreSQL, or cuts all connections to it.

    Raises AssertionError when the process stands still.
    """
    rng = Random(f"label campaign {plan.seed}")
    found = Found()
    with SimulatedNetwork(seed=plan.seed, accounts=5, labelers=plan.labelers) as network:
        broken = break_some(network.labelers, plan.broken)
        sound = network.labelers[: plan.labelers - plan.broken]
        speeches = [_Speech(it, _frames(it, plan.labels // len(sound), rng)) for it in sound]
        for speech in speeches[:: max(2, len(sound) // 3)]:
            speech.changes_key = True
        for labeler in network.labelers[len(sound) :]:
            for number in range(OF_BROKEN):
                labeler.label(f"did:plc:broken{number}", "spam")
        liars = [it for it in network.labelers[len(sound) :] if broken[it.did] in REJECTED]
        environment = {**network.environment(), "APPVIEW_DEAD_LETTERS_PER_MINUTE": "100"}
        with _Process(database.url, network.relay_url, environment) as process:
            began = time.monotonic()
            _let_them_speak(speeches, network, process, plan, rng, restart)
            found.labels = sum(len(speech.rows) for speech in speeches)
            say(f"{found.labels:,} labels sent in {time.monotonic() - began:.1f} s")
            _come_to_rest(database.url, [*sound, *liars], process, plan, say)
            found.seconds = time.monotonic() - began
            found.killed, found.ended = process.killed, process.ended
            _compare(database.url, speeches, broken, found)
            _look_at_the_rest(database.url, broken, found)
        if found.different:
            say(process.last_words())
    return found


def _let_them_speak(
    speeches: Sequence[_Speech],
    network: SimulatedNetwork,
    process: _Process,
    plan: Plan,
    rng: Random,
    restart: Callable[[], object],
) -> None:
    kills = sorted(rng.uniform(0.1, 1.0) * plan.seconds for _ in range(plan.kills))
    cuts = sorted(rng.uniform(0.1, 1.0) * plan.seconds for _ in range(plan.kills * 2))
    rotations = [(rng.uniform(0.2, 0.8) * plan.seconds, speech) for speech in speeches if speech.changes_key]
    restarts = [plan.seconds / 2]
    away: list[Labeler] = []
    started, made, left = time.monotonic(), 0, list(speeches)
    while left or kills or cuts or restarts:
        elapsed = time.monotonic() - started
        due = int(min(1.0, elapsed / plan.seconds) * plan.labels) - made if elapsed < plan.seconds else plan.labels
        share = max(1, due // max(1, len(left)))
        for speech in list(left):
            sent = speech.send(share)
            made += sent
            if sent == 0:
                left.remove(speech)
        for labeler in away:
            labeler.accept()
        away.clear()
        if kills and elapsed >= kills[0]:
            kills.pop(0)
            process.kill()
        if cuts and elapsed >= cuts[0]:
            cuts.pop(0)
            labeler = rng.choice(speeches).labeler
            if rng.random() < 0.3:
                labeler.refuse()
                away.append(labeler)
            else:
                labeler.disconnect_all()
                labeler.faults.drop_after.append(rng.randint(1, 500))
        for when, speech in rotations:
            if elapsed >= when and speech.changes_key:
                network.labelers.rotate_key(speech.labeler, p256=rng.random() < 0.5)
                rotations.remove((when, speech))
                break
        if restarts and elapsed >= restarts[0]:
            restarts.pop()
            restart()
        process.keep_running()
        time.sleep(STEP_SECONDS)
    for labeler in away:
        labeler.accept()


def _come_to_rest(url: str, labelers: Sequence[Labeler], process: _Process, plan: Plan, say: Say) -> None:
    wanted = {labeler.did: labeler.seq for labeler in labelers}
    best, since, said = -1, time.monotonic(), time.monotonic()
    while True:
        process.keep_running()
        cursors = dict(rows(url, "SELECT did, cursor FROM pipeline.labeler WHERE did = ANY(%s)", list(wanted)))
        behind = {did: seq - cursors.get(did, 0) for did, seq in wanted.items() if cursors.get(did, 0) != seq}
        if not behind:
            return
        now, done = time.monotonic(), sum(cursors.values())
        if done > best:
            best, since = done, now
        if now - said > 10:
            said = now
            say(f"{len(behind)} labelers are behind, by {sum(behind.values()):,}")
        if now - since > plan.patience:
            states = rows(
                url, "SELECT did, state, reason, cursor FROM pipeline.labeler WHERE did = ANY(%s)", list(behind)
            )
            raise AssertionError(f"stands still: {states[:10]}\n{process.last_words()}")
        time.sleep(STEP_SECONDS)


# ---- what is compared

_EVENTS = """
    SELECT src, uri, cid, val, neg, cts, (extract(epoch FROM cts_at) * 1000000)::bigint, exp,
        (extract(epoch FROM exp_at) * 1000000)::bigint, seq, sig, signed
    FROM pipeline.label_event"""
_FEED = "SELECT src, uri, cid, val, neg, cts_at, exp_at FROM pipeline.label_event WHERE took_effect ORDER BY id"


def _compare(url: str, speeches: Sequence[_Speech], broken: dict[str, str], found: Found) -> None:
    stored = [_as_row(row) for row in rows(url, _EVENTS)]
    labels = {
        tuple(row[:4]): tuple(row[4:]) for row in rows(url, "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label")
    }
    found.stored, found.events = len(labels), len(stored)
    of_stored = LabelModel()
    of_stored.add(stored)
    found.differs("a row of bsky.label does not follow from label_event", _different(of_stored.rows(), labels))
    found.differs(
        "an event is stored twice", [of_stored.events - len(stored)] if of_stored.events != len(stored) else []
    )
    by_src: dict[str, list[LabelRow]] = {}
    for row in stored:
        by_src.setdefault(row.src, []).append(row)
    sent = LabelModel()
    for speech in speeches:
        theirs = by_src.pop(speech.labeler.did, [])
        events = {_identity(row) for row in theirs}
        if speech.labeler.keeps_all:
            sent.add(speech.rows)
            seqs: dict[Any, int] = {}
            for row in speech.rows:
                seqs[_identity(row)] = max(seqs.get(_identity(row), -1), row.seq or -1)
            found.differs("a label that was sent is missing", sorted(seqs.keys() - events))
            stored_seqs = {_identity(row): row.seq for row in theirs}
            wrong = [(it, seq, stored_seqs[it]) for it, seq in seqs.items() if stored_seqs.get(it, seq) != seq]
            found.differs("another seq than the greatest", wrong)
        else:
            offered = {_identity(label_row(label, seq)) for seq, label in speech.labeler.labels.items()}
            found.differs("a label that is in the stream is missing", sorted(offered - events))
        found.differs("a label that was never sent", sorted(events - {_identity(row) for row in speech.rows}))
    # Of the broken ones, one sends a label of its own again and again, and it is a valid label.
    for src, theirs in by_src.items():
        if broken.get(src) != "same again" or len(theirs) != 1:
            found.differs(f"a label of a broken labeler ({broken.get(src)})", theirs)
    ours = {
        key: value
        for key, value in labels.items()
        if key[0] in {it.labeler.did for it in speeches if it.labeler.keeps_all}
    }
    found.differs("a row of bsky.label is not what the labeler said", _different(sent.rows(), ours))
    _follow(url, of_stored, found)
    _count(url, of_stored, found)
    _verify(stored, speeches, found)


def _as_row(row: tuple[Any, ...]) -> LabelRow:
    values: list[Any] = [bytes(it) if isinstance(it, memoryview) else it for it in row]
    return LabelRow(*values)


def _identity(row: LabelRow) -> tuple[Any, ...]:
    """What makes an event another one."""
    return row.src, row.uri, row.cid, row.val, row.cts_micros, row.neg, row.exp_micros or 0


def _different(expected: dict[Any, Any], actual: dict[Any, Any]) -> list[str]:
    """The rows that differ, in words."""
    keys = sorted(expected.keys() | actual.keys())
    return [
        f"{key}: {actual.get(key)} instead of {expected.get(key)}"
        for key in keys
        if expected.get(key) != actual.get(key)
    ]


def _follow(url: str, model: LabelModel, found: Found) -> None:
    """A client that applies the feed in the order of ids knows what is in effect."""
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    for src, uri, version, val, neg, _, exp in rows(url, _FEED):
        if neg:
            known.pop((src, uri, val), None)
        else:
            known.setdefault((src, uri, val), {})[version] = exp
    now = time.time_ns() // 1_000
    in_effect = set(model.in_effect(now))
    followed = {
        (src, uri, version, val)
        for (src, uri, val), versions in known.items()
        for version, exp in versions.items()
        if exp is None or exp.timestamp() * 1e6 > now
    }
    found.in_effect = len(in_effect)
    found.differs("who follows the feed misses", sorted(in_effect - followed))
    found.differs("who follows the feed still has", sorted(followed - in_effect))


def _count(url: str, model: LabelModel, found: Found) -> None:
    """`pipeline.labeler` counts right."""
    expected = model.not_negated()
    counted = rows(url, "SELECT did, in_effect, labels, repeated, changed FROM pipeline.labeler")
    found.repeated = sum(repeated for _, _, _, repeated, _ in counted)
    found.differs(
        "labeler.in_effect", [(did, it, expected.get(did, 0)) for did, it, *_ in counted if it != expected.get(did, 0)]
    )


def _verify(stored: Sequence[LabelRow], speeches: Sequence[_Speech], found: Found) -> None:
    """What is stored still verifies."""
    keys = {
        speech.labeler.did: VerifyingKey(parse_did_key(f"did:key:{multikey(speech.labeler.key)}"))
        for speech in speeches
        if not speech.changes_key
    }
    ours = [row for row in stored if row.src in keys]
    wrong = []
    for row in ours[:: max(1, len(ours) // SIGNATURES)]:
        label = Label(
            src=row.src, uri=row.uri, cid=row.cid or None, val=row.val, neg=row.neg, cts=row.cts, exp=row.exp,
            sig=row.sig, cts_micros=row.cts_micros, exp_micros=row.exp_micros, signed=row.signed,
        )  # fmt: skip
        if row.sig is None or not keys[row.src].verify(row.signed or canonical_bytes(label), row.sig):
            wrong.append(row)
    found.differs("a stored signature does not fit", wrong)


def _look_at_the_rest(url: str, broken: dict[str, str], found: Found) -> None:
    """How the broken labelers stand, and what was rejected. Rejected labels are counted once, whatever was killed."""
    rejected = "SELECT did, state, reason, rejected_by_kind FROM pipeline.labeler"
    for did, state, reason, by_kind in rows(url, rejected):
        found.states[state] += 1
        way = broken.get(did, "")
        if way:
            found.reasons[way] = f"{state}: {reason}"
        if (kind := REJECTED.get(way)) and by_kind != {kind: OF_BROKEN}:
            found.differs("rejected labels", [(way, by_kind)])
    found.letters = dict(rows(url, "SELECT kind, count(*) FROM pipeline.dead_letter GROUP BY 1 ORDER BY 1"))


def in_words(found: Found) -> str:
    """The result on a few lines."""
    lines = [
        f"{found.labels:,} labels sent; {found.events:,} different ones stored; {found.stored:,} rows of bsky.label, "
        f"{found.in_effect:,} in effect; {found.repeated:,} came again; at rest after {found.seconds:.1f} s",
        f"killed {found.killed} times; ended by itself (exit code: times): {dict(found.ended)}; "
        f"labelers: {dict(found.states)}; dead letters: {found.letters}",
        *(f"  {way}: {reason}" for way, reason in found.reasons.items()),
        f"differences: {sum(found.different.values()):,} {dict(found.different) or ''}",
        *(f"  {difference}" for difference in found.differences),
    ]
    return "\n".join(lines)


@click.command(context_settings={"show_default": True})
@click.option("--labels", default=Plan.labels, help="Labels of the sound labelers, together.")
@click.option("--labelers", default=Plan.labelers, help="Labelers.")
@click.option("--broken", default=Plan.broken, help="Of these, so many are broken.")
@click.option("--kills", default=Plan.kills, help="SIGKILLs of the label process; connections are cut twice as often.")
@click.option("--seed", default=Plan.seed, help="Another seed, other labels and other moments.")
@click.option("--seconds", default=Plan.seconds, help="How long they label.")
def main(labels: int, labelers: int, broken: int, kills: int, seed: int, seconds: float) -> None:
    """Labels are what the labelers say, whatever is broken, restarted and killed."""
    plan = Plan(labels, labelers, broken, kills, seed, seconds)
    with restartable() as server:
        database = open_database(load({"APPVIEW_DATABASE_URL": server.url}), migrate=True)
        try:
            found = run(database, plan, click.echo, restart=server.restart)
        finally:
            database.close()
    click.echo(in_words(found))
    sys.exit(1 if found.different else 0)


if __name__ == "__main__":
    main()
