"""What an export's records become: revs, times, who may be notified, what is refused, and how the parts are cut."""

from __future__ import annotations

import time
from typing import Any

import pytest

from appview_pipeline.backfill import exported_changes
from appview_pipeline.backfill.compare import Counts
from appview_pipeline.backfill.exported_changes import ExportReader, changes_of_export
from appview_pipeline.indexing.changes import Change, DeadLetter, RecordDelete
from appview_pipeline.indexing.collection import RecordWrite
from appview_pipeline.protocol.car import read_car, write_car
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.protocol.export import InvalidExport, read_export
from appview_pipeline.protocol.syntax import tid_after, tid_from_micros
from appview_pipeline.settings import Settings
from appview_pipeline.store.indexed_records import IndexedState
from appview_pipeline_tests.simulated_network.content import iso
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.support.frames import START, WHEN, Person, Stream, create, post, rev
from appview_pipeline_tests.support.memory_fetcher import export_of

POST = "app.bsky.feed.post"
HOUR, DAY = 3_600_000_000, 86_400_000_000
NOW = START + 30 * DAY
E = rev(1)
E_TIME = iso(START + 1_000_000)


def tid(micros: int) -> str:
    return tid_from_micros(micros)


class Made:
    """The changes of an export of `writes`, made at `now`, beside what is `indexed`."""

    def __init__(
        self,
        *writes: Write,
        indexed: list[IndexedState] | None = None,
        now: int = NOW,
        rows: int = 20_000,
        **options: Any,
    ) -> None:
        ann = Person(Stream(), "ann")
        ann.commit(*writes)
        self.did = ann.did
        self.counts = Counts()
        with export_of(ann) as export:
            reader = ExportReader(Settings(), now)
            self.parts = list(changes_of_export(export, indexed or [], reader, self.counts, part_rows=rows, **options))

    @property
    def changes(self) -> list[Change]:
        return [change for part in self.parts for change in part]

    @property
    def writes(self) -> dict[str, RecordWrite]:
        return {write.rkey: write for change in self.changes for write in change.writes}

    @property
    def deletes(self) -> list[RecordDelete]:
        return [delete for change in self.changes for delete in change.deletes]

    @property
    def letters(self) -> list[DeadLetter]:
        return [letter for change in self.changes for letter in change.dead_letters]


def stored(rkey: str, at: str | None, *, gone: bool = False) -> IndexedState:
    return IndexedState(f"{POST}/{rkey}", None if gone else to_text(cid_for_cbor(b"another")), at)


def test_a_record_that_nothing_is_known_of_has_the_rev_of_its_key() -> None:
    old, ahead = tid(START - DAY), tid(START + DAY)
    made = Made(post(old, "x"), post(ahead, "x"), post("no-tid", "x"))
    assert {rkey: write.rev for rkey, write in made.writes.items()} == {old: old, ahead: E, "no-tid": E}
    assert {write.action for write in made.writes.values()} == {"create"}
    assert made.counts == Counts(records=3, creates=3)


def test_a_record_of_which_something_older_is_known_has_the_rev_of_the_export() -> None:
    changed, back = tid(START - DAY), tid(START - HOUR)
    made = Made(
        post(changed, "x"),
        post(back, "x"),
        indexed=[stored(changed, changed), stored(back, rev(0), gone=True), stored("lacking", rev(0))],
    )
    assert {rkey: (write.rev, write.action) for rkey, write in made.writes.items()} == {
        changed: (E, "update"),
        back: (E, "create"),
    }
    assert [(it.uri, it.rev, it.indexed_at, it.seq) for it in made.deletes] == [
        (f"at://{made.did}/{POST}/lacking", E, E_TIME, None)
    ]
    assert made.counts == Counts(records=2, creates=1, updates=1, deletes=1)


def test_what_another_commit_of_the_same_rev_said_is_overtaken_and_later_commits_overtake_that() -> None:
    made = Made(
        post("a", "x"), post("b", "x"), indexed=[stored("a", E), stored("b", E, gone=True), stored("c", E)], now=NOW
    )
    after = tid_after(E)
    assert E < after < rev(2)
    assert [write.rev for write in made.writes.values()] + [it.rev for it in made.deletes] == [after] * 3


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (WHEN, WHEN),
        ("1960-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z"),
        (iso(NOW + DAY), iso(NOW)),
    ],
)
def test_a_new_record_was_indexed_when_it_says_it_was_written(created: str, expected: str) -> None:
    made = Made(create(f"{POST}/{tid(START - DAY)}", {"text": "x", "createdAt": created}))
    assert [write.indexed_at for write in made.writes.values()] == [expected]


def test_a_record_that_does_not_say_when_it_was_written_was_indexed_at_the_time_of_its_key_or_of_the_export() -> None:
    made = Made(
        create("app.bsky.actor.profile/self", {"displayName": "x"}),
        create(f"app.bsky.graph.verification/{tid(START)}", {"handle": "a.test"}),
    )
    assert [write.indexed_at for write in made.writes.values()] == [E_TIME]
    extra = Made(create(f"com.atproto.lexicon.schema/{tid(START - HOUR)}", {"lexicon": 1, "id": "a.b.c"}))
    assert [write.indexed_at for write in extra.writes.values()] == [iso(START - HOUR)]


def test_a_changed_record_was_indexed_at_the_time_of_the_export_at_the_latest_now() -> None:
    assert Made(post("a", "x"), indexed=[stored("a", None)]).writes["a"].indexed_at == E_TIME
    early = START - HOUR
    assert Made(post("a", "x"), indexed=[stored("a", None)], now=early).writes["a"].indexed_at == iso(early)


def test_records_that_are_older_than_the_window_are_quiet_whatever_they_say() -> None:
    now = START + 3 * DAY + HOUR
    fresh, old = tid(START + 2 * HOUR), tid(START)
    said_now = {"text": "x", "createdAt": iso(now)}
    made = Made(
        create(f"{POST}/{fresh}", {"text": "x", "createdAt": "2001-01-01T00:00:00.000Z"}),
        create(f"{POST}/{old}", said_now),
        create(f"{POST}/fresh", said_now),
        create(f"{POST}/old", {"text": "x", "createdAt": iso(START)}),
        create("app.bsky.actor.profile/self", {}),
        now=now,
    )
    assert {rkey for rkey, write in made.writes.items() if not write.is_quiet} == {fresh, "fresh"}


def test_a_record_that_may_not_be_indexed_is_a_dead_letter_that_can_be_retried() -> None:
    old = tid(START - DAY)
    made = Made(
        create(f"{POST}/{old}", {"text": 1, "createdAt": WHEN}),
        create("app.bsky.feed.threadgate/a", {"post": f"at://did:plc:{'a' * 24}/{POST}/a", "createdAt": WHEN}),
        post("fine", "x"),
    )
    assert [(it.kind, it.path, it.form, it.action, it.seq) for it in made.letters] == [
        ("lexicon", f"{POST}/{old}", "block", "create", None),
        ("collection-rule", "app.bsky.feed.threadgate/a", "block", "create", None),
    ]
    letter = made.letters[0]
    assert (letter.rev, letter.cid) == (old, to_text(cid_for_cbor(letter.bytes)))
    assert made.writes.keys() == {"fine"}
    assert made.counts == Counts(records=3, creates=1, refused=2)


def test_of_the_last_days_only_their_records_are_taken_and_nothing_is_deleted() -> None:
    now = START + 5 * DAY
    old, fresh = tid(START), tid(START + 4 * DAY)
    made = Made(
        post(old, "x"),
        post(fresh, "x"),
        create(f"{POST}/old", {"text": "x", "createdAt": iso(START)}),
        create(f"{POST}/fresh", {"text": "x", "createdAt": iso(START + 4 * DAY)}),
        indexed=[stored("lacking", None)],
        now=now,
        days=2,
    )
    assert made.writes.keys() == {fresh, "fresh"}
    assert made.deletes == []
    assert made.counts == Counts(records=4, creates=2, old=2)
    states = [change.export for change in made.changes]
    assert all(state is not None and state.is_partial and not state.is_whole for state in states)


@pytest.mark.parametrize("rows", [1, 3, 4, 1_000])
def test_the_parts_are_of_limited_size_and_the_very_last_change_says_so(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported_changes, "CHANGE_ROWS", 2)
    made = Made(*[post(f"k{number}", "x") for number in range(12)], rows=rows, asked_at="then")
    assert [write.rkey for change in made.changes for write in change.writes] == sorted(made.writes)
    assert all(sum(len(change.writes) for change in part) <= rows for part in made.parts)
    assert all(len(change.writes) <= 2 for change in made.changes)
    assert len(made.parts) == -(-12 // rows) + (12 % rows == 0)
    exports = [change.export for change in made.changes]
    assert [it.is_last for it in exports if it is not None] == [False] * (len(exports) - 1) + [True]
    assert {(it.rev, it.is_whole, it.asked_at, it.is_fetched) for it in exports if it is not None} == {
        (E, True, "then", True)
    }


def test_the_bytes_of_a_part_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported_changes, "MAX_PART_BYTES", 1_000)
    made = Made(*[post(f"k{number}", "x" * 300) for number in range(12)])
    assert max(sum(change.size for change in part) for part in made.parts) < 1_500
    assert len(made.writes) == 12


def test_nothing_to_write_is_one_last_part() -> None:
    made = Made(create("com.example.note/a", {}))
    assert [len(part) for part in made.parts] == [1]
    assert made.counts == Counts(ignored=1)


def test_without_the_block_of_a_record_the_others_are_yielded_and_the_export_is_not_complete() -> None:
    ann = Person(Stream(), "ann")
    ann.commit(*[post(f"k{number}", f"{number}") for number in range(3)])
    roots, blocks = read_car(ann.repository.export())
    found = ann.repository.get(f"{POST}/k1")
    assert found is not None
    del blocks[found[0]]
    parts: list[list[Change]] = []
    with read_export(write_car(roots[0], blocks), ann.did, time.time_ns() // 1_000) as export:
        reader = ExportReader(Settings(), NOW)
        with pytest.raises(InvalidExport, match=f"{POST}/k1") as caught:
            parts += changes_of_export(export, [], reader, Counts(), part_rows=100)
        assert caught.value.kind == "missing"
        made = changes_of_export(export, [], reader, Counts(), part_rows=100)
        part = next(made)
    assert [write.rkey for change in part for write in change.writes] == ["k0", "k2"]
    assert all(change.export is not None and not change.export.is_last for change in part)
