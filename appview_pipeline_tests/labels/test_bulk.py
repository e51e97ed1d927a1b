"""Labels from a file: every line is applied or named, and the whole may be run again."""

from __future__ import annotations

import io
from typing import Any

import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels import bulk, service
from appview_pipeline.labels.bulk import BulkSummary, apply_file
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import rows

OURS, ANN, BOB = ("did:plc:" + letter * 24 for letter in "oab")
POST = f"at://{ANN}/app.bsky.feed.post/3l"
CID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"


@pytest.fixture
def settings(database: Database) -> Settings:
    return Settings(database_url=database.url, labeler_did=OURS)


def apply(
    settings: Settings, database: Database, text: str | bytes, *, negate: bool = False
) -> tuple[BulkSummary, dict[int, str]]:
    """Applies a file; also the lines that were refused."""
    refused: dict[int, str] = {}
    file = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    done: list[int] = []
    summary = apply_file(settings, database, file, refuse=refused.__setitem__, progress=done.append, negate=negate)
    assert sum(done) <= len(file.getvalue())
    return summary, refused


def in_effect(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT uri, cid, val, exp FROM bsky.label WHERE NOT neg ORDER BY uri, val, cid")


def test_lines_of_both_forms(database: Database, settings: Settings) -> None:
    text = f"""\
{POST},spam
{POST},spam,{CID},
{ANN},rude,,2999-01-01T00:00:00Z

{{"subject": "{BOB}", "val": "a, b"}}
{BOB},"c, ""d"" e"
{{"subject": "{POST}", "val": "x", "cid": "{CID}", "exp": null, "neg": false}}
"""
    summary, refused = apply(settings, database, text)
    assert refused == {} and summary == BulkSummary(lines=6, refused=0, labels=6, negations=0, unchanged=0)
    assert in_effect(database) == [
        (POST, "", "spam", None),
        (POST, CID, "spam", None),
        (POST, CID, "x", None),
        (ANN, "", "rude", "2999-01-01T00:00:00.000Z"),
        (BOB, "", "a, b", None),
        (BOB, "", 'c, "d" e', None),
    ]
    assert apply(settings, database, text)[0] == BulkSummary(lines=6, refused=0, labels=0, negations=0, unchanged=6)
    summary, refused = apply(settings, database, f"{POST},spam\n{BOB},nothing\n", negate=True)
    assert summary == BulkSummary(lines=2, refused=0, labels=0, negations=2, unchanged=1)
    assert len(in_effect(database)) == 4


def test_a_first_line_may_name_the_columns(database: Database, settings: Settings) -> None:
    text = f"\ufeffSubject, neg ,val\n{POST},,spam\n{POST},false,rude\n{POST},yes,spam\n{POST},perhaps,x\n"
    summary, refused = apply(settings, database, text)
    assert summary == BulkSummary(lines=4, refused=1, labels=2, negations=1, unchanged=0)
    assert refused == {5: "'perhaps' is neither true nor false."}
    assert in_effect(database) == [(POST, "", "rude", None)]
    summary, _ = apply(settings, database, f'"subject","cid","val"\n"{POST}","{CID}","quoted"\n')
    assert summary == BulkSummary(lines=1, refused=0, labels=1, negations=0, unchanged=0)
    assert (POST, CID, "quoted", None) in in_effect(database)
    for header in ("subject,value", "subject,val,val", "subject,cid"):
        with pytest.raises(OperatorError, match="The first line names other columns"):
            apply(settings, database, f"{header}\n{POST},spam\n")


def test_bad_lines_are_named_and_the_others_applied(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH", 3)
    bad = {
        2: (b"spam", "no subject, or no val"),
        3: (f"{POST},a,b,c,d".encode(), "5 cells"),
        4: (b'{"subject": "x"', "not JSON"),
        5: (b'{"subject": "x", "val": "y", "src": "z"}', "unknown field 'src'"),
        6: (b'{"subject": "x", "val": 5}', "not text"),
        7: (b'{"subject": "x", "val": "y", "neg": "yes"}', "neither true nor false"),
        8: (b"\xff\xfe,spam", "not UTF-8"),
        9: (b"x" * 30_000, "longer than 10,000 bytes"),
        10: (b"nobody.test,spam", "no account is known"),
        11: (f'{POST},"spam'.encode(), "not comma-separated"),
        12: (f"{POST},{'x' * 129}".encode(), "val of 129 bytes"),
        13: (f"{POST},spam,nocid".encode(), "cid is not a CID"),
        14: (f"{POST},spam,,2001-01-01".encode(), "not a datetime in the future"),
        15: (b'{"subject": "x", "val": "\\u0000"}', "neither a DID nor a handle"),
    }
    lines = [f"{POST},v{number}".encode() if number not in bad else bad[number][0] for number in range(1, 21)]
    summary, refused = apply(settings, database, b"\r\n".join(lines))
    assert summary == BulkSummary(lines=20, refused=14, labels=6, negations=0, unchanged=0)
    assert refused.keys() == bad.keys()
    for number, (_, reason) in bad.items():
        assert reason in refused[number] and refused[number].endswith("."), number
    assert {val for _, _, val, _ in in_effect(database)} == {f"v{number}" for number in (1, *range(16, 21))}


def test_a_run_that_ends_early_is_run_again(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH", 10)
    text = "".join(f"{POST},v{number:03}\n" for number in range(100)).encode()

    class Ends(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 1_500:
                raise OSError(5, "Input/output error")
            return super().readline(size)

    with pytest.raises(OperatorError, match=r"could not be read: Input/output error\."):
        apply_file(settings, database, Ends(text), refuse=lambda number, reason: None)
    before = len(in_effect(database))
    assert 0 < before < 100
    summary, _ = apply(settings, database, text)
    assert (summary.unchanged, summary.labels) == (before, 100 - before)


def test_no_line_is_held_whole_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_LINE", 10)
    lines = list(bulk._lines(io.BytesIO(b"0123456789\n" + b"x" * 1_000 + b"\nshort\n" + b"y" * 25)))
    assert [line[:3] for line in lines] == [b"012", b"xxx", b"sho", b"yyy"] and max(map(len, lines)) == 11
