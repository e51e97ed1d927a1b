"""`appview-pipeline import-predecessor`: takes over what the predecessor knows and the network does not.

Accounts that opted out, what labels mean, and labels that were made there. All of it goes through the same functions
as what an operator asks for by hand, so it may be repeated: what is so already, and what was decided otherwise here
since, is left alone. Everything else comes from the network again (docs/migration.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypeVar

from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.labels.definitions import set_definition
from appview_pipeline.labels.service import LabelRequest, apply_labels
from appview_pipeline.protocol.syntax import format_milliseconds, is_did, parse_at_uri
from appview_pipeline.settings import Settings
from appview_pipeline.store import exclusion, label_definitions
from appview_pipeline.store.database import Database
from appview_pipeline.store.label_definitions import Strings
from appview_pipeline.store.label_query import findable
from appview_pipeline.store.local_labels import known_values
from appview_pipeline.store.predecessor import ForeignDefinition, Predecessor, open_predecessor

INSTANCE_SOURCE = "did:plc:system"
"""The source of labels that the predecessor made by itself. It is nobody's account."""

SEVERITIES = {
    "info": ("inform", "none", "warn"),
    "warn": ("alert", "none", "warn"),
    "alert": ("alert", "content", "warn"),
    "none": ("none", "none", "ignore"),
}
"""The predecessor's severities as severity, blurs and default of the lexicon."""

LEFT = {
    **dict.fromkeys(
        ("mutes", "list_mutes", "thread_mutes", "bookmarks", "activity_subscriptions", "user_preferences"),
        "private to the accounts, in a form of its own; the reference AppView keeps its own",
    ),
    **dict.fromkeys(
        ("sessions", "oauth_states", "push_subscriptions", "authorized_admins", "video_jobs"),
        "of the predecessor's own web server",
    ),
    **dict.fromkeys(
        ("moderation_reports", "moderation_actions", "moderator_assignments", "label_events"),
        "a history that this project has no place for; keep a dump of it",
    ),
    **dict.fromkeys(
        (
            *("users", "posts", "likes", "reposts", "follows", "blocks", "lists", "list_items", "feed_generators"),
            *("starter_packs", "labeler_services", "verifications", "thread_gates", "generic_records"),
            *("notifications", "feed_items", "quotes", "post_aggregations"),
        ),
        "comes from the network again, whole and verified",
    ),
    "firehose_cursor": "its cursor was saved before the work was done; the stream and the backfill bring all",
}
"""Tables that are not taken over, and why."""

MAX_REASONS = 20
"""Different reasons that are shown for one kind of rows; the rest is counted together."""

_NO_LABELER = "APPVIEW_LABELER_DID is not set: set it and run this again"
_BATCH = 500
_T = TypeVar("_T")


@dataclass
class Taken:
    """What became of rows of one kind: of the `found` ones `taken` were taken over, `unchanged` were so already, and
    `refused` are not taken over, by reason."""

    found: int = 0
    taken: int = 0
    unchanged: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str, number: int = 1) -> None:
        """Counts rows that are not taken over."""
        known = reason in self.refused or len(self.refused) < MAX_REASONS
        reason = reason if known else "other reasons"
        self.refused[reason] = self.refused.get(reason, 0) + number


@dataclass
class ImportSummary:
    """What became of everything. `left`: rows (about) of tables that are not read, and why. With `dry_run` nothing was
    written, and `taken` is what would be. `is_complete`: False where APPVIEW_LABELER_DID has to be set first."""

    dry_run: bool
    is_complete: bool = True
    opt_outs: Taken = field(default_factory=Taken)
    definitions: Taken = field(default_factory=Taken)
    labels: Taken = field(default_factory=Taken)
    left: dict[str, tuple[int, str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        found = asdict(self)
        found["left"] = {name: {"rows": rows, "reason": reason} for name, (rows, reason) in self.left.items()}
        return found

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = ["Nothing was written; this is what would be." if self.dry_run else "Taken over:"]
        parts = (("Opted out", self.opt_outs), ("Label definitions", self.definitions), ("Labels", self.labels))
        for name, taken in parts:
            lines.append(
                f"{name:<18} {taken.found:,} found, {taken.taken:,} taken over, {taken.unchanged:,} so already, "
                f"{sum(taken.refused.values()):,} refused"
            )
            lines += [f"  {number:,}: {reason}" for reason, number in taken.refused.items()]
        lines.append("Not taken over (rows, about):")
        by_reason: dict[str, list[str]] = {}
        for name, (rows, reason) in self.left.items():
            by_reason.setdefault(reason, []).append(f"{name} {rows:,}")
        lines += [f"  {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return lines


def import_predecessor(
    settings: Settings,
    database: Database,
    url: str,
    *,
    sources: Collection[str] = (),
    purge: bool = False,
    dry_run: bool = False,
    progress: Callable[[str, int], None] = lambda what, number: None,
    clock: Callable[[], float] = time.time,
) -> ImportSummary:
    """Takes over opt-outs, label definitions and labels from the predecessor's database at `url`.

    `sources`: the DIDs whose labels are taken over, as labels of APPVIEW_LABELER_DID; by default that one itself and
    the predecessor's own (`INSTANCE_SOURCE`). They are dated now, since no label may be older than what is known.
    `purge`: what is stored here of accounts that opted out there is removed, too. `progress` gets what is read, and how
    many rows more.

    Repeated, or interrupted and repeated, it ends in the same state. Raises OperatorError where either database can't
    be used.
    """
    summary = ImportSummary(dry_run)
    wanted = set(sources) or {INSTANCE_SOURCE, *filter(None, [settings.labeler_did])}
    with open_predecessor(url, list(LEFT)) as found:
        _opt_outs(database, found, summary, purge, progress)
        _definitions(settings, database, found, summary, progress)
        _labels(settings, database, found, summary, wanted, progress, clock)
        summary.left = {name: (rows, LEFT[name]) for name, rows in found.tables.items() if name in LEFT}
    return summary


def _opt_outs(
    database: Database,
    found: Predecessor,
    summary: ImportSummary,
    purge: bool,
    progress: Callable[[str, int], None],
) -> None:
    taken = summary.opt_outs
    for dids in _in_batches(found.opt_outs()):
        taken.found += len(dids)
        with database.connect("reader") as connection:
            known = exclusion.settings_of(connection, [did for did in dids if is_did(did)])
        for did in dids:
            if not is_did(did):
                taken.refuse("not a DID")
            elif known.get(did) is False:
                taken.refuse("the account has allowed the collection of its data here since")
            elif known.get(did) and not purge:
                taken.unchanged += 1
            elif summary.dry_run or switch_collection(database, did, forbid=True, purge=purge).changed:
                taken.taken += 1
            else:
                taken.unchanged += 1
        progress("accounts", len(dids))


def _definitions(
    settings: Settings,
    database: Database,
    found: Predecessor,
    summary: ImportSummary,
    progress: Callable[[str, int], None],
) -> None:
    taken, did = summary.definitions, settings.labeler_did
    there = list(found.definitions())
    taken.found = len(there)
    progress("definitions", len(there))
    if did is None:
        if there:
            taken.refuse(_NO_LABELER, len(there))
            summary.is_complete = False
        return
    with database.connect("reader") as connection:
        known = {it.val for it in label_definitions.read_definitions(connection, [did]) if it.is_local}
    for definition in there:
        severity = SEVERITIES.get(definition.severity)
        if findable(definition.val) in known:
            taken.unchanged += 1
        elif severity is None:
            taken.refuse(f"the severity {definition.severity[:40]!r} is none that the predecessor has")
        elif summary.dry_run:
            taken.taken += 1
        else:
            try:
                set_definition(
                    settings,
                    database,
                    definition.val,
                    locales=strings_of(definition),
                    severity=severity[0],
                    blurs=severity[1],
                    default_setting=severity[2],
                )
            except OperatorError as error:
                taken.refuse(f"{definition.val[:100]}: {error}")
            else:
                taken.taken += 1


def strings_of(definition: ForeignDefinition) -> list[Strings]:
    """Name and description by language. The predecessor lets any JSON through, so what has another form is left out;
    English is always there, with the value as the name."""
    found: dict[str, Strings] = {}
    given = definition.strings
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, dict):
        entries = given.items()
    elif isinstance(given, list):
        entries = [(it.get("lang"), it) for it in given if isinstance(it, dict)]
    for lang, strings in entries:
        if isinstance(strings, str):
            strings = {"name": strings}
        if isinstance(lang, str) and isinstance(strings, dict):
            name, description = strings.get("name"), strings.get("description")
            if isinstance(name, str) and name:
                words = description if isinstance(description, str) else definition.description
                found.setdefault(lang.lower(), Strings(lang, name, words or ""))
    if not any(lang == "en" or lang.startswith("en-") for lang in found):
        found["en"] = Strings("en", definition.val[:60], definition.description or "")
    return list(found.values())


def _labels(
    settings: Settings,
    database: Database,
    found: Predecessor,
    summary: ImportSummary,
    sources: set[str],
    progress: Callable[[str, int], None],
    clock: Callable[[], float],
) -> None:
    taken, did = summary.labels, settings.labeler_did
    for source in found.label_sources():
        taken.found += source.standing + source.negated
        if source.negated and source.src in sources:
            taken.refuse("taken back there", source.negated)
        if source.src not in sources:
            taken.refuse(
                f"of {source.src[:100]}, another labeler: subscribe to it (APPVIEW_LABELERS), or name it with --source",
                source.standing + source.negated,
            )
    for requests in _in_batches(LabelRequest(subject, val) for subject, val in found.labels(sources)):
        if did is None:
            taken.refuse(_NO_LABELER, len(requests))
            summary.is_complete = False
            continue
        now = format_milliseconds(int(clock() * 1_000))
        with database.connect("reader") as connection:
            known = known_values(
                connection, did, {(findable(it.subject), findable(it.val)) for it in requests}, now=now
            )
        new = []
        for it in requests:
            if not _is_subject(it.subject):
                taken.refuse("the subject is neither a DID nor the AT URI of a record")
                continue
            value = known.get((findable(it.subject), findable(it.val)))
            if value is None or value.newest is None:
                new.append(it)
            elif value.in_effect:
                taken.unchanged += 1
            else:
                taken.refuse("taken back here since")
        if summary.dry_run:
            taken.taken += len(new)
        elif new:
            done = apply_labels(
                settings, database, new, refuse=lambda place, sentence: taken.refuse("not a valid label"), clock=clock
            )
            taken.taken += done.labels
            taken.unchanged += done.unchanged
        progress("labels", len(requests))


def _is_subject(subject: str) -> bool:
    """Whether labels are about such things. (A handle would be resolved to whoever has it now.)"""
    parts = parse_at_uri(subject)
    return is_did(subject) or (parts is not None and is_did(parts.authority) and parts.rkey is not None)


def _in_batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
