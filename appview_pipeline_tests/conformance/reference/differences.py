"""The differences from the reference that tests meet, by their names in docs/differences.md (README.md).

A difference is recognised by what it changes in the tables: by a statement that makes of the reference's rows the rows
that docs/differences.md promises. It is executed on the oracle's database; afterwards the answers must be equal, all
of them and entirely. So a difference explains what follows from the rows that it names and nothing beside them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from appview_pipeline_tests.conformance.reference.oracle import Call, Oracle
from appview_pipeline_tests.conformance.reference.reads import canonical
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect

_NAME = re.compile(r"^\| `([\w-]+)` \|", re.MULTILINE)


@dataclass(frozen=True)
class Difference:
    """A row of docs/differences.md as it occurs in some input.

    `name`: the row's name. `statements`: for the reference's database, whose schema is the search path; each must
    change a row. `parameters`: of the statements, by name (`%(name)s`).
    """

    name: str
    statements: Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in names():
            raise ValueError(f"docs/differences.md has no row {self.name!r}")


@dataclass(frozen=True)
class Unequal:
    """A read whose two answers, made canonical, differ."""

    call: Call
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return "\n  ".join((str(self.call), *_unlike(self.theirs, self.ours)))


@dataclass
class Comparison:
    """What a comparison found. `asked`: calls; `equal`: those that were equal from the beginning; `explained`: by name
    of the difference, the unequal ones that it changed; `changed`: by name, the rows that it changed; `unequal`: the
    answers that are left; `absent`: expected differences that did not occur, in words; `answered`: the methods that
    answered something, and not always nothing."""

    asked: int = 0
    equal: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    unequal: list[Unequal] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        """Whether every answer is equal or explained, and every expected difference occurred."""
        return not self.unequal and not self.absent

    def __str__(self) -> str:
        lines = [f"{self.asked} reads, {self.equal} equal, {sum(self.explained.values())} explained"]
        lines += [f"{name}: {count}" for name, count in sorted(self.explained.items())]
        lines += self.absent
        if self.unequal:
            by_method = Counter(it.call.method for it in self.unequal)
            lines.append(f"{len(self.unequal)} reads differ: {dict(by_method)}")
            lines += [str(it) for it in self.unequal[:20]]
        return "\n".join(lines)


@cache
def names() -> tuple[str, ...]:
    """The names of the rows of docs/differences.md, in their order."""
    return tuple(_NAME.findall((CHECKOUT / "docs" / "differences.md").read_text(encoding="utf-8")))


def compare(
    oracle: Oracle, theirs: str, ours: str, calls: Sequence[Call], expected: Sequence[Difference] = ()
) -> Comparison:
    """Asks two open databases every call: `theirs`, which the reference filled and the expected differences change, and
    `ours`."""
    wanted, got = canonical_answers(oracle, ours, calls), canonical_answers(oracle, theirs, calls)
    unequal = [number for number in range(len(calls)) if got[number] != wanted[number]]
    found = Comparison(asked=len(calls), equal=len(calls) - len(unequal))
    found.answered = {call.method for call, answer in zip(calls, wanted, strict=True) if _says(answer)}
    touched: dict[str, set[int]] = {}
    for difference in expected:
        for statement in difference.statements:
            if changed_rows := execute(oracle.urls[theirs], statement, difference.parameters):
                found.changed[difference.name] += changed_rows
            else:
                found.absent.append(f"{difference.name} does not occur: no row is changed by {statement}")
        again = dict(
            zip(unequal, canonical_answers(oracle, theirs, [calls[number] for number in unequal]), strict=True)
        )
        changed = [number for number in unequal if again[number] != got[number]]
        if changed:
            touched.setdefault(difference.name, set()).update(changed)
        else:
            found.absent.append(f"{difference.name} does not occur: it explains no read")
        for number in changed:
            got[number] = again[number]
        unequal = [number for number in unequal if got[number] != wanted[number]]
    found.explained = Counter({name: len(numbers) for name, numbers in touched.items()})
    if expected:  # what was equal may not have been by right
        got = canonical_answers(oracle, theirs, calls)
        unequal = [number for number in range(len(calls)) if got[number] != wanted[number]]
    found.unequal = [Unequal(calls[number], got[number], wanted[number]) for number in unequal]
    return found


def execute(url: str, statement: str, parameters: Mapping[str, Any]) -> int:
    """Executes a statement in schema bsky; how many rows it changed."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO bsky, public")
        cursor.execute(statement, parameters or None)
        changed = cursor.rowcount
        connection.commit()
        return changed


def canonical_answers(oracle: Oracle, name: str, calls: Sequence[Call]) -> list[Any]:
    """The answers of an open database, comparable."""
    answers = oracle.ask(name, calls)
    return [canonical(call, answer) for call, answer in zip(calls, answers, strict=True)]


def _unlike(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Where two answers differ, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _unlike(theirs.get(key), ours.get(key), f"{path}.{key}")
    elif (
        isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours) and _is_by_place(theirs, ours)
    ):
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from _unlike(one, other, f"{path}[{number}]")
    elif isinstance(theirs, list) and isinstance(ours, list) and sorted(map(str, theirs)) != sorted(map(str, ours)):
        yield from (f"{path}: only the reference has {json.dumps(it)}" for it in theirs if it not in ours)
        yield from (f"{path}: only here is {json.dumps(it)}" for it in ours if it not in theirs)
    elif theirs != ours:
        yield f"{path}: reference {json.dumps(theirs)}, here {json.dumps(ours)}"


def _is_by_place(theirs: list[Any], ours: list[Any]) -> bool:
    """Whether two lists of one length differ in few of their items."""
    return sum(one != other for one, other in zip(theirs, ours, strict=True)) <= max(1, len(ours) // 4)


_GIVEN = ("targetDid", "subjectUri", "actorDid", "namespace")
"""Fields that repeat what was asked."""


def _says(value: Any) -> bool:
    """Whether an answer has anything in it."""
    if isinstance(value, dict):
        return "error" not in value and any(_says(inner) for key, inner in value.items() if key not in _GIVEN)
    return any(map(_says, value)) if isinstance(value, list) else bool(value)
