"""`appview-pipeline labels apply --file`: labels from a file, a line each.

A line is a JSON object, `{"subject": ..., "val": ..., "cid": ..., "exp": ..., "neg": ...}`, or comma-separated:
`subject,val,cid,exp`. All but subject and value may be left out. A first line that begins with `subject` names the
columns of the others.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import BinaryIO

import orjson

from appview_pipeline.errors import OperatorError
from appview_pipeline.labels.service import Applied, LabelRequest, apply_labels
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database

MAX_LINE = 10_000
"""Bytes of a line; a label has 2,000 at most."""

_FIELDS = tuple(field.name for field in fields(LabelRequest))
_COLUMNS = ("subject", "val", "cid", "exp")
_TRUE, _FALSE = ("true", "1", "yes"), ("", "false", "0", "no")


class _BadLine(ValueError):
    """A line that is no request; the message says why."""


@dataclass(frozen=True)
class BulkSummary:
    """What became of a file: of its `lines` (empty ones are not counted) `refused` ones were not valid; the others are
    `Applied`."""

    lines: int
    refused: int
    labels: int
    negations: int
    unchanged: int


def apply_one(settings: Settings, database: Database, request: LabelRequest, *, force: bool = False) -> BulkSummary:
    """Makes one label, or takes it back, as a file of one line would. Raises OperatorError."""
    return _summary(apply_labels(settings, database, [request], force=force), 0)


def apply_file(
    settings: Settings,
    database: Database,
    file: BinaryIO,
    *,
    negate: bool = False,
    force: bool = False,
    refuse: Callable[[int, str], None],
    progress: Callable[[int], object] = lambda size: None,
) -> BulkSummary:
    """Makes the labels of a file, in transactions of many lines; with `negate` takes them back.

    `refuse` is called with the number of each line that is not valid (from 1) and a sentence; nothing of it is applied.
    Interrupted and run again, it goes on where it was, because what is so already is not said again. `progress` is
    called with the bytes of the file that are done. Raises OperatorError.
    """
    numbers = array("Q")  # of the lines that became requests
    read = shown = bad = 0

    def requests() -> Iterator[LabelRequest]:
        nonlocal read, bad
        columns: Sequence[str] = _COLUMNS
        for number, line in enumerate(_lines(file), 1):
            read += len(line)
            try:
                text = _text(line, is_first=number == 1)
                if not text:
                    continue
                if number == 1 and _names_columns(text):
                    columns = _header(text)
                    continue
                request = _request(text, columns)
            except _BadLine as error:
                bad += 1
                refuse(number, str(error))
                continue
            numbers.append(number)
            yield replace(request, neg=True) if negate else request

    def show(done: Applied) -> None:
        nonlocal shown
        progress(read - shown)
        shown = read

    done = apply_labels(
        settings,
        database,
        requests(),
        force=force,
        refuse=lambda place, reason: refuse(numbers[place], reason),
        progress=show,
    )
    return _summary(done, bad)


def _summary(done: Applied, bad: int) -> BulkSummary:
    """`bad`: lines that were no requests."""
    return BulkSummary(
        lines=done.requests + bad,
        refused=done.refused + bad,
        labels=done.labels,
        negations=done.negations,
        unchanged=done.unchanged,
    )


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, each cut off after `MAX_LINE` bytes and one. Raises OperatorError."""
    try:
        while line := file.readline(MAX_LINE + 1):
            rest = line
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE + 1)
            yield line
    except OSError as error:
        raise OperatorError(f"The file could not be read: {error.strerror}.") from error


def _text(line: bytes, *, is_first: bool) -> str:
    if len(line) > MAX_LINE:
        raise _BadLine(f"The line is longer than {MAX_LINE:,} bytes.")
    try:
        # Spreadsheets begin their files with a mark.
        return line.decode("utf-8-sig" if is_first else "utf-8").strip()
    except UnicodeDecodeError:
        raise _BadLine("The line is not UTF-8.") from None


def _names_columns(text: str) -> bool:
    """Whether a first line does, quoted or not."""
    return text.partition(",")[0].strip().strip('"').strip().lower() == "subject"


def _header(text: str) -> list[str]:
    """The columns that a first line names. Raises OperatorError."""
    names = [name.strip().lower() for name in _cells(text)]
    if "val" not in names or len(set(names)) < len(names) or set(names) - set(_FIELDS):
        raise OperatorError(f"The first line names other columns than {', '.join(_FIELDS)}, or one twice, or no val.")
    return names


def _request(text: str, columns: Sequence[str]) -> LabelRequest:
    """What a line asks for. Raises _BadLine."""
    return _from_json(text) if text.startswith("{") else _from_cells(_cells(text), columns)


def _from_json(text: str) -> LabelRequest:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _BadLine(f"The line is not JSON: {error.msg}.") from None
    if unknown := sorted(value.keys() - set(_FIELDS)):
        raise _BadLine(f"The line has the unknown field {unknown[0][:100]!r}; known are {', '.join(_FIELDS)}.")
    neg = value.get("neg")
    texts = {name: value.get(name) for name in _COLUMNS}
    if texts["subject"] is None or texts["val"] is None:
        raise _BadLine("The line has no subject, or no val.")
    if not isinstance(neg, bool | None) or not all(isinstance(text, str | None) for text in texts.values()):
        raise _BadLine("The line has a field that is not text, or a neg that is neither true nor false.")
    return LabelRequest(neg=neg is True, **texts)


def _from_cells(cells: Sequence[str], columns: Sequence[str]) -> LabelRequest:
    if len(cells) > len(columns):
        raise _BadLine(f"The line has {len(cells)} cells; there are {len(columns)} columns: {', '.join(columns)}.")
    found = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
    if not found.get("subject") or not found.get("val"):
        raise _BadLine("The line has no subject, or no val.")
    neg = found.get("neg", "").lower()
    if neg not in (*_TRUE, *_FALSE):
        raise _BadLine(f"{neg[:100]!r} is neither true nor false.")
    return LabelRequest(
        found["subject"], found["val"], found.get("cid") or None, found.get("exp") or None, neg in _TRUE
    )


def _cells(text: str) -> list[str]:
    lines: Iterable[str] = [text]
    try:
        return next(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise _BadLine(f"The line is not comma-separated: {error}.") from None
