"""An explanation in sentences, by section (`operations/explain.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from appview_pipeline.indexing.registry import COLLECTIONS, EFFECTS
from appview_pipeline.operations.explanation import AccountExplanation, Explanation, RecordExplanation
from appview_pipeline.operations.subjects import post_gate_of
from appview_pipeline.operations.words import one_line
from appview_pipeline.protocol.syntax import is_tid, tid_to_micros
from appview_pipeline.store.explain import (
    MAX_COUNTED,
    MAX_SHOWN,
    AccountRows,
    AppliedLabel,
    Label,
    Letter,
    Pending,
    derived_tables,
)
from appview_pipeline.store.trial import GateRule, ReplyEvaluation

MAX_ROW = 200
"""Characters of a derived row that people are shown; `--json` has all."""

_RULES = {
    "mentionRule": "accounts that the root mentions",
    "followerRule": "followers of the root's author",
    "followingRule": "accounts that the root's author follows",
}
_STATES = {
    "unknown": "The repository is known from the stream alone: what came before is not known",
    "synchronized": "The repository is complete",
    "desynchronized": "Something of the repository is missing, and it waits to be fetched",
    "resyncing": "The repository is being fetched",
    "error": "Fetching the repository was given up for now",
}


def sections(explanation: Explanation) -> dict[str, list[str]]:
    """The sentences of an explanation, by the title of their section; sections may be empty."""
    if isinstance(explanation, RecordExplanation):
        return record_sections(explanation)
    return account_sections(explanation)


def lines(explanation: Explanation) -> Iterator[str]:
    """An explanation for people: what it is about, then section by section. Strangers' text cannot make lines or
    control a terminal."""
    yield explanation.subject.uri if isinstance(explanation, RecordExplanation) else explanation.subject.did
    for title, sentences in sections(explanation).items():
        if sentences:
            yield ""
            yield title
            yield from (f"  {one_line(sentence)}" for sentence in sentences)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation for programs: everything that was found, and under `sentences` what people are told."""
    found: dict[str, Any] = {"did": explanation.subject.did}
    if isinstance(explanation, RecordExplanation):
        found = {"uri": explanation.uri, **found}
    for name, value in vars(explanation).items():
        if name == "identity":
            found[name] = None if value is None else value.as_json()
        elif name not in ("subject", "now"):
            found[name] = _plain(value)
    return found | {"sentences": sections(explanation)}


def _plain(value: Any) -> Any:
    """A value as JSON has it: named tuples and dataclasses are objects, sets lists."""
    if hasattr(value, "_asdict"):
        return {name: _plain(inner) for name, inner in value._asdict().items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def record_sections(it: RecordExplanation) -> dict[str, list[str]]:
    """What is known of a record, section by section, in the order in which people ask."""
    indexed = it.rows.record is not None
    return {
        "Record": list(_record(it) if indexed else _why_not_indexed(it)),
        "Past states": list(_past(it)),
        "Derived rows": list(_derived(it)) if indexed else [],
        "Duplicates": list(_duplicates(it)),
        "Evaluation": [*_reply(it), *_quote(it)],
        "Notifications": list(_notifications(it)),
        "Counters": list(_counters(it)),
        "Blocks": [
            f"{by} blocks {whom}. Readers hide by that; the index notifies and counts all the same."
            for by, whom in it.blocks
        ],
        "Labels": list(_labels(it.rows.labels, it.rows.labels_applied, it.rows.record and it.rows.record.cid)),
        "Missing records": list(_missing(it)),
        "Dead letters": [_letter(letter) for letter in it.rows.letters],
        "Repository": list(_repository(it.account)),
    }


def account_sections(it: AccountExplanation) -> dict[str, list[str]]:
    """What is known of an account, section by section."""
    account = it.account
    total = sum(account.records.values())
    more = f" (only {MAX_COUNTED:,} were counted)" if total >= MAX_COUNTED else ""
    counters = it.counters.get(it.subject.did, {})
    return {
        "Account": it.identity.lines() if it.identity is not None else ["Nothing is known of its identity."],
        "Records": [
            f"{total:,} {'record is' if total == 1 else 'records are'} indexed{more}.",
            *(f"{collection}: {count:,}" for collection, count in account.records.items()),
        ],
        "Counters": [", ".join(f"{name} {value:,}" for name, value in counters.items())] if counters else [],
        "Labels": list(_labels(account.labels, account.labels_applied, None)),
        "Dead letters": [f"{count:,} of kind {kind}, such as: {reason}" for kind, count, reason in account.letters],
        "Repository": list(_repository(account)),
    }


def _record(it: RecordExplanation) -> Iterator[str]:
    record = it.rows.record
    assert record is not None
    yield f"It is indexed, as CID {record.cid}, rev {record.rev or 'unknown'}{_time_of(record.rev)}."
    yield f"Its time for readers (indexedAt) is {record.indexed_at}; it was applied at {_at(record.applied_at)}."
    yield _origin(it)
    if record.is_quiet:
        yield "It is quiet: when it came it was older than APPVIEW_NOTIFY_WINDOW, so it notifies nobody."
    if record.takedown_ref is not None:
        yield f"It is taken down here ({record.takedown_ref}): readers do not see it."
    if it.account.repository.is_forbidden:
        yield "Its account forbids the collection of its data: nothing new is stored, and what was stored before stays."
    if it.rows.tombstone is not None:
        yield f"It had been deleted at rev {it.rows.tombstone.rev}, and came back."


def _origin(it: RecordExplanation) -> str:
    """How the record came, as far as its rev says it."""
    record, repository = it.rows.record, it.account.repository
    assert record is not None
    if record.rev is None:
        return "An export of its repository brought it; its rev is not known."
    if record.rev == it.subject.rkey:
        if repository.export_rev is None:
            return "It was fetched by itself, on demand: its rev is the time of its record key."
        return "An export of its repository brought it, or it was fetched on demand: its rev is that of its record key."
    if record.rev == repository.export_rev:
        return f"An export of its repository, of rev {record.rev}, showed this state."
    return "A commit brought this state, by the stream or a replay: its rev is later than its record key."


def _past(it: RecordExplanation) -> Iterator[str]:
    for state in it.rows.versions:
        what = "It was deleted" if state.is_deletion else "An earlier state is kept, of"
        yield f"{what} {'at ' if state.is_deletion else ''}rev {state.rev}{_time_of(state.rev)}."
    yield from _cut(it.rows.versions, "states")


def _derived(it: RecordExplanation) -> Iterator[str]:
    collection = it.subject.collection or ""
    if collection not in COLLECTIONS or not COLLECTIONS[collection].stages:
        yield "Records of this collection are kept as they are: no rows are derived from them."
        return
    for table, rows in it.rows.derived.items():
        for row in rows:
            yield f"{table}: {_row(row)}"
        yield from _cut(rows, f"rows of {table}")
    empty = [table.table for table in derived_tables(EFFECTS, collection) if table.table not in it.rows.derived]
    if empty:
        yield f"No rows in {', '.join(empty)}."
    if it.untried is not None:
        yield f"What follows from it can't be derived now. {it.untried}"
    elif it.trial is not None and it.trial.differing:
        yield (
            f"These differ from what the record says: {', '.join(it.trial.differing)}. Materialize the asset of the "
            "table for the hour in which the record was applied, and report it."
        )


def _row(row: dict[str, Any]) -> str:
    """The columns that say something new, on one line."""
    known = ("uri", "postUri", "cid", "creator", "indexedAt")
    text = ", ".join(f"{name}={_text(value)}" for name, value in row.items() if value is not None and name not in known)
    return text if len(text) <= MAX_ROW else f"{text[: MAX_ROW - 1]}…"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _duplicates(it: RecordExplanation) -> Iterator[str]:
    if it.rows.duplicate_of is not None:
        yield (
            f"It is a duplicate: {it.rows.duplicate_of} says the same and came first, so that one counts. "
            "When that is deleted, the next one takes its place."
        )
    if it.rows.duplicates:
        yield "It is the one that counts: it came first, by rev and record key. Its duplicates do not count:"
        yield from it.rows.duplicates
        yield from _cut(it.rows.duplicates, "duplicates")


def _reply(it: RecordExplanation) -> Iterator[str]:
    reply = it.trial.reply if it.trial is not None else None
    if reply is None or it.rows.record is None:
        return
    yield f"It replies to {reply.parent} in the thread of {reply.root}. It is evaluated as of its own rev."
    if reply.parent_rev is None:
        yield (
            "Its root is not valid, because the parent did not exist then"
            f"{', as far as is known: it is not indexed' if reply.parent in it.missing else ''}."
        )
    elif not reply.invalid:
        yield f"Its root is valid: the parent existed (rev {reply.parent_rev}) and is in the same thread."
    elif it.parent is not None and it.parent[2]:
        yield "Its root is not valid, because the parent itself has no valid root."
    else:
        yield "Its root is not valid, because the parent is in another thread than the one that the reply names."
    yield from _gate(it, reply)
    expected = (reply.invalid, reply.violating) if reply.invalid or reply.violating else (None, None)
    row = it.rows.derived.get("post", [{}])[0]
    if (row.get("invalidReplyRoot"), row.get("violatesThreadGate")) != expected:
        yield "The flags of its row differ from this. Materialize the asset posts for its hour, and report it."


def _gate(it: RecordExplanation, reply: ReplyEvaluation) -> Iterator[str]:
    if reply.gate_uri is None:
        if reply.root.startswith(f"at://{it.subject.did}/"):
            yield "A thread gate does not apply to it: its author is the author of the root."
        else:
            yield "No thread gate applies to it: the root had none at that rev."
        return
    state = "its present state" if reply.gate_is_current else "a past state"
    gate = f"The thread gate {reply.gate_uri}, as of rev {reply.gate_rev} ({state}),"
    if not reply.rules:
        yield f"{gate} does not list who may reply, so it turns nobody away."
        return
    rules = [rule for rule in reply.rules if rule.kind is not None]
    if not rules:
        yield f"{gate} admits nobody but the author of the root. The reply violates it."
        return
    yield f"{gate} admits these accounts:"
    for rule in rules:
        yield f"  {_rule(rule)}"
    holding = [rule for rule in rules if rule.holds]
    if reply.violating:
        yield "The author of the reply is none of them, so the reply violates the gate."
    elif holding:
        yield f"It admits the reply, because its author is one of the {_admitted(holding[0])}."
    else:
        yield "It admits the reply, because the root mentions its author."


def _rule(rule: GateRule) -> str:
    if rule.relationship is None:
        return f"{_admitted(rule)}"
    return f"{_admitted(rule)}: {'the author is one' if rule.holds else 'the author was none then'}"


def _admitted(rule: GateRule) -> str:
    name = (rule.kind or "").partition("#")[2]
    return (
        f"members of {rule.list}" if name == "listRule" else _RULES.get(name, f"accounts of a rule not known ({name})")
    )


def _quote(it: RecordExplanation) -> Iterator[str]:
    quote = it.trial.quote if it.trial is not None else None
    if quote is None:
        return
    yield f"It quotes {quote.subject}."
    gate = post_gate_of(quote.subject)
    if quote.violating:
        yield f"The post gate {gate}, as of rev {it.post_gate_rev}, forbids quotes, so the quote violates it."
    elif quote.subject.startswith(f"at://{it.subject.did}/"):
        yield "A post gate does not apply to it: the author quotes a post of their own."
    elif it.post_gate_rev is not None:
        yield f"The post gate {gate}, as of rev {it.post_gate_rev}, allows quotes."
    else:
        yield "No post gate applies to it: the quoted post had none at that rev."


def _notifications(it: RecordExplanation) -> Iterator[str]:
    for notified in it.rows.notified:
        about = "" if notified.subject is None else f", about {notified.subject}"
        yield f"{notified.did} was notified: {notified.reason}{about}."
    yield from _cut(it.rows.notified, "notifications")
    if it.rows.record is None:
        return
    for muted in it.rows.muted:
        yield f"{muted.did} was not notified ({muted.reason}), because they had muted the thread."
    collection = COLLECTIONS.get(it.subject.collection or "")
    if collection is None or collection.notifies is None:
        yield "Records of this collection notify nobody."
        return
    if it.trial is None:
        yield "Whom it does not notify, and why, can't be derived now."
        return
    found = list(_not_notified(it))
    yield from found
    if not found and not it.rows.notified and not it.rows.muted:
        yield "It names nobody who could be notified."


def _not_notified(it: RecordExplanation) -> Iterator[str]:
    """The accounts that the record names or that its rules find, and that were not notified, each with the reason."""
    record, trial = it.rows.record, it.trial
    notifies = COLLECTIONS[it.subject.collection or ""].notifies
    assert record is not None and notifies is not None
    done = {(row.did, row.reason) for row in it.rows.notified} | {(row.did, row.reason) for row in it.rows.muted}
    seen = {did for did, _ in done}
    if trial is None:
        return
    own = [(row.did, row.reason, row.is_quiet) for row in trial.of_pair if row.record_uri == it.uri]
    wanted = [(row.did, row.reason, record.is_quiet) for row in trial.wanted]
    for did, reason, is_quiet in wanted + own:
        if (did, reason) in done:
            continue
        seen.add(did)
        if is_quiet:
            why = "the record is quiet"
        elif did in it.removed:
            why = "the account was removed"
        elif notifies.stays:
            why = "this is written once, when it happens; the state that first came did not notify"
        else:
            why = "but should be. Materialize the asset notifications for its hour, and report it"
        yield f"{did} was not notified ({reason}): {why}."
    for did in it.named:
        if did not in seen:
            yield f"{did} was not notified: {_why_not(it, did)}."


def _why_not(it: RecordExplanation, did: str) -> str:
    """Why an account that the record names has no notification of it."""
    trial = it.trial
    assert trial is not None
    elsewhere = [row for row in trial.of_pair if row.did == did and row.record_uri != it.uri]
    reply, quote = trial.reply, trial.quote
    if did == it.subject.did:
        return "nobody is notified of their own records"
    if elsewhere:
        return f"the notification is that of {elsewhere[0].record_uri}, which says the same and came first"
    if it.rows.duplicate_of is not None:
        return f"the record is a duplicate of {it.rows.duplicate_of}"
    if quote is not None and quote.violating and quote.subject.startswith(f"at://{did}/"):
        return "a post gate forbids the quote"
    if reply is not None and did in (_account_of(reply.parent), _account_of(reply.root)):
        if reply.violating:
            return "the thread gate turns the reply away, so nobody above it is notified"
        if reply.parent_rev is None:
            return "the parent is missing, so it is not known whose posts are above"
        return "their post is more than four above the reply, or above one that the thread gate hides"
    if it.subject.collection in EFFECTS.notified_once and it.subject.did in it.named:
        return "the record is about a post of its own author, which notifies nobody"
    return "being named in this way does not notify"


def _account_of(uri: str) -> str:
    return uri.removeprefix("at://").partition("/")[0]


def _counters(it: RecordExplanation) -> Iterator[str]:
    trial = it.trial
    if trial is not None:
        for counted in trial.counted_in:
            value = it.counters.get(counted.key, {}).get(counted.counter, 0)
            yield f"It counts in {counted.counter} of {counted.key}, which is {value:,}."
        for key in sorted(trial.wrong_counters):
            yield f"A recount of {key} differs from its counters: run the job repair_counters, and report it."
        if trial.reply is not None and trial.reply.violating:
            yield f"It does not count in replyCount of {trial.reply.parent}, because it violates the thread gate."
        if it.rows.duplicate_of is not None and COLLECTIONS[it.subject.collection or ""].counters:
            yield "It counts nowhere, because it is a duplicate."
    if own := it.counters.get(it.uri):
        yield f"Its own counters: {', '.join(f'{name} {value:,}' for name, value in own.items())}."


def _labels(labels: list[Label], applied: list[AppliedLabel], cid: str | None) -> Iterator[str]:
    for it in applied:
        of = {"account": "on its account", "record": "on the record", "self": "which it gives itself"}[it.kind]
        version = f", for the version {it.cid}" if it.cid and it.cid != cid else ""
        until = f", until {it.exp}" if it.exp else ""
        yield f"In effect: {it.val}, by {it.src}, {of}, since {it.cts}{until}{version}."
    for label in labels:
        if not label.is_in_effect:
            why = f"taken back at {label.cts}" if label.is_negated else f"ended at {label.exp}"
            yield f"Not in effect: {label.val}, by {label.src}, {why}."


def _missing(it: RecordExplanation) -> Iterator[str]:
    for pending in it.rows.waits_for:
        yield f"It waits for {pending.other} ({pending.kind}), since {_at(pending.since)}. {_fetching(it, pending)}"
    waiting = {pending.other for pending in it.rows.waits_for}
    for uri in sorted(it.missing - waiting):
        yield f"It names {uri}, which is not indexed."
    for pending in it.rows.waited_for:
        yield f"{pending.other} waits for it ({pending.kind}), since {_at(pending.since)}. {_fetching(it, pending)}"
    yield from _cut(it.rows.waited_for, "records")


def _fetching(it: RecordExplanation, pending: Pending) -> str:
    """Whether a missing record is fetched."""
    failed = f" {pending.attempts:,} attempts failed: {pending.error}." if pending.error else ""
    if pending.not_before is not None and pending.expires_at > it.now:
        return f"It is fetched from its PDS, next at {_at(max(pending.not_before, it.now))}.{failed}"
    return f"It is not fetched (any more); when it comes, what waits is evaluated.{failed}"


def _letter(letter: Letter) -> str:
    state = "" if letter.resolved_at is None else f" A retry at {_at(letter.resolved_at)} settled it."
    rev = "" if letter.rev is None else f", rev {letter.rev}"
    what = "A state of it was refused" if letter.path is not None else "A whole commit of its account was refused"
    return f"{what} at {_at(letter.first_seen)} ({letter.kind}, number {letter.id}{rev}): {letter.reason}.{state}"


def _why_not_indexed(it: RecordExplanation) -> Iterator[str]:
    """Every reason that is known why a record is not in the index."""
    rows, repository = it.rows, it.account.repository
    yield "It is not indexed."
    if repository.is_forbidden:
        yield "Its account forbids the collection of its data, so nothing of it is stored (docs/privacy.md)."
    elif repository.removal == "deleted":
        yield "Its account was deleted, so nothing of it is stored (docs/accounts.md)."
    if not it.is_indexed_collection:
        seen = it.not_indexed
        counts = "" if seen is None else f" So far {seen.creates + seen.updates + seen.deletes:,} operations came."
        yield (
            f"Records of {it.subject.collection} are not indexed, only counted.{counts} "
            "APPVIEW_EXTRA_COLLECTIONS keeps more collections."
        )
        return
    if rows.tombstone is not None:
        how = "an export of its repository lacked it" if rows.tombstone.seq is None else "its author deleted it"
        yield (
            f"It was deleted: {how}, at rev {rows.tombstone.rev}{_time_of(rows.tombstone.rev)}; applied at "
            f"{_at(rows.tombstone.deleted_at)}."
        )
    elif any(state.is_deletion for state in rows.versions):
        yield "It was deleted (see its past states)."
    if any(letter.path is not None and letter.resolved_at is None for letter in rows.letters):
        yield "It was refused (see its dead letters). The job retry_dead_letters tries again."
    if any(gap.kind == "record" and gap.from_text == it.uri.split("/", 3)[3] for gap in it.account.gaps):
        yield "Its commit was applied without it: a gap of its repository, which is fetched."
    if it.is_too_old:
        yield (
            "It is older than APPVIEW_RETENTION_DAYS, by its record key: such records are deleted here, and are not "
            "indexed again (docs/sweeps.md)."
        )
    elif rows.tombstone is None and not repository.is_excluded and not rows.versions:
        yield _never_seen(it)


def _never_seen(it: RecordExplanation) -> str:
    """What follows from the state of its repository for a record of which nothing was ever seen."""
    repository = it.account.repository
    fetch = f"`appview-pipeline backfill {it.subject.did}` fetches its repository"
    if not repository.is_known or repository.rev is None:
        return f"Nothing of its repository has been received. {fetch}."
    if repository.sync_state == "synchronized" and not repository.is_partial:
        return (
            f"It was never seen, and its repository is complete up to rev {repository.rev}{_time_of(repository.rev)}: "
            "there was no such record then."
        )
    if repository.sync_state == "synchronized":
        return f"It was never seen; of its repository only the newest records were fetched. {fetch} whole."
    return f"It was never seen, and its repository is not known to be complete. {fetch}."


def _repository(account: AccountRows) -> Iterator[str]:
    it = account.repository
    if not it.is_known:
        yield "Nothing of the repository has been received."
    else:
        rev = "" if it.rev is None else f"; its newest rev here is {it.rev}{_time_of(it.rev)}"
        partial = ", as far as its newest records go" if it.is_partial else ""
        yield f"{_STATES[it.sync_state or 'unknown']}{partial}{rev}."
        if it.sync_reason:
            since = "" if it.sync_at is None else f" (since {_at(it.sync_at)})"
            yield f"Why it is in this state: {it.sync_reason}{since}."
    if it.is_forbidden:
        yield "The account forbids the collection of its data: nothing new of it is stored."
    if it.removal is not None and it.removal_requested_at is not None:
        why = "the account was deleted" if it.removal == "deleted" else "a purge was asked for"
        done = "it goes on" if it.removal_finished_at is None else f"it ended at {_at(it.removal_finished_at)}"
        yield f"Everything of it is removed, because {why} at {_at(it.removal_requested_at)}; {done}."
    if it.unchecked_rev is not None and it.unchecked_since is not None:
        yield (
            f"Signatures of its commits up to rev {it.unchecked_rev} are not checked yet, since "
            f"{_at(it.unchecked_since)}: the account's key is not known."
        )
    for gap in account.gaps:
        span = ", ".join(
            f"{word} {text}" for word, text in (("from", gap.from_text), ("to", gap.to_text)) if text is not None
        )
        yield f"Open gap: {gap.kind}{f' ({span})' if span else ''}, found at {_at(gap.detected_at)}."
    yield from _cut(account.gaps, "gaps")
    if it.queue_reason is not None and it.queued_at is not None:
        failed = f"; {it.attempts:,} attempts failed: {it.queue_error}" if it.queue_error else ""
        yield f"It waits to be fetched ({it.queue_reason}), since {_at(it.queued_at)}{failed}."


def _cut(rows: list[Any], what: str) -> Iterator[str]:
    if len(rows) == MAX_SHOWN:
        yield f"There may be more {what}: {MAX_SHOWN} are shown."


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _time_of(rev: str | None) -> str:
    """The time in a rev, for people; empty where there is none, as in the revs of removals."""
    if rev is None or not is_tid(rev):
        return ""
    micros = tid_to_micros(rev)
    if not 0 < micros < 4_102_444_800_000_000:  # until 2100
        return ""
    return f" ({datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=micros):%Y-%m-%d %H:%M:%S} UTC)"
