"""Every path that writes, and why it stores nothing of an account that has opted out.

Three lists are complete, or a test fails: the statements that write (`STATEMENTS`), the modules that run them
(`MODULES`), and the callers of those that lock and look (`PATHS`). Whoever adds one says why it respects the opt-out. A
path is also driven with an account that has opted out; then the whole database is searched for the account.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill.car_file import backfill_from_file
from appview_pipeline.backfill.fetch import FetchFailed
from appview_pipeline.backfill.fetch_live import fetch_live
from appview_pipeline.backfill.listing import list_network
from appview_pipeline.backfill.resync import resync
from appview_pipeline.backfill.survey import close_stream_gaps
from appview_pipeline.backfill.worker import work
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.changes import Change, DeadLetter, ExportState
from appview_pipeline.indexing.registry import EFFECTS
from appview_pipeline.indexing.shared_rows import letter_rows
from appview_pipeline.ingest.dead_letters import EXCLUDED, retry_dead_letters
from appview_pipeline.ingest.live.replay_range import replay_range
from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.ingest.retention import apply_retention
from appview_pipeline.ingest.signatures import settle_signatures
from appview_pipeline.ingest.verification import verifier_for
from appview_pipeline.labels.bulk import apply_file
from appview_pipeline.labels.dead_letters import retry_dead_letters as retry_letters_of_labelers
from appview_pipeline.labels.decoding import read_frames
from appview_pipeline.labels.definitions import set_definition
from appview_pipeline.labels.label_frame import Position
from appview_pipeline.labels.service import LabelRequest
from appview_pipeline.labels.service import apply_labels as make_labels
from appview_pipeline.labels.verification import LabelerKeys
from appview_pipeline.labels.writer import LabelWriter
from appview_pipeline.operations.adopting import adopt
from appview_pipeline.operations.explain import explain
from appview_pipeline.operations.import_predecessor import import_predecessor
from appview_pipeline.operations.leaving import leave
from appview_pipeline.protocol.export import Export
from appview_pipeline.protocol.label import encode_label
from appview_pipeline.protocol.label_frames import labels_frame
from appview_pipeline.protocol.peek import peek_did
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import backfill_queue, backfill_reports, hosts, sql
from appview_pipeline.store.accounts import PdsStatus, save_statuses
from appview_pipeline.store.contacts import ContactMatch, notify_contact_match
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Database
from appview_pipeline.store.identities import Settled, claim, save, want
from appview_pipeline.store.identity_import import ImportedDocument, import_documents
from appview_pipeline.store.label_definitions import Strings
from appview_pipeline.store.labelers import LabelerState, note_gap, open_labeler, reread, set_states
from appview_pipeline.store.labelers import want as want_labelers
from appview_pipeline.store.labels import (
    LabelBatch,
    LabelerProgress,
    announce_expired,
    apply_labels,
    rebuild_labels,
)
from appview_pipeline.store.pending import missed, postpone, take_missing
from appview_pipeline.store.repo_states import begin_resync, fail_resync
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline.store.table_sizes import measure_tables
from appview_pipeline.store.totals import count_reports
from appview_pipeline_tests.conformance.reference.check import scratch_database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support import predecessor
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.consumers import Start, cursor, until
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post, update, without_block
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.memory_fetcher import MemoryFetcher
from appview_pipeline_tests.support.records import one_of_each, strong_ref
from appview_pipeline_tests.support.tables import Fresh, one, replayed_frames, rows
from appview_pipeline_tests.support.traces import Traces, tables_of, traces
from appview_pipeline_tests.support.waiting import wait_for

# ---------------------------------------------------------------------------------------------------------------------
# Why a statement stores nothing new of an excluded account.

CHECKED = "it writes what the batch has staged, and store/exclusion.py refuses a batch that has content of the account"
LOOKS = "it leaves excluded accounts out itself: of known_repo.excluded or pipeline.repo.excluded, under a lock"
DROPPED = "what excluded accounts would add is taken out of the staging table before (sql/apply/excluded.sql)"
DERIVED = "it derives rows from records that are stored already, or moves, counts and flags such rows"
OTHERS = "what it writes belongs to other accounts: what they wrote, and the counts of it"
STATE = "it keeps the state of a repository, an account or a stream, which holds no content"
REMOVES = "it takes something away, closes, empties or marks something that is stored"
EXISTING = "it changes rows that are there, to nothing that the account wrote since"
NOBODY = "its rows name no account, or servers only"
ASKED = "it is asked for an account by name, and queues no more than that name; what is found is not stored (save.sql)"
LABELS = "store/labels.py stages nothing of labelers that are excluded, under a lock; labels about accounts stay"
BY_HAND = "it stores what the operator says of a labeler's labels, and nothing that the labeler says"
QUEUED = "it queues no more than names, not of excluded accounts; one that is excluded meanwhile is not fetched"

STATEMENTS: dict[str, str] = {
    "account/remove.count": REMOVES,
    "account/remove.failed": REMOVES,
    "account/remove.finish": REMOVES,
    "account/remove.start": STATE,
    "account/status.save": STATE,
    "adopt/history.deletions": OTHERS,
    "adopt/history.gates": EXISTING,
    "adopt/history.gone_gates": OTHERS,
    "adopt/history.keep_notifications": DERIVED,
    "adopt/history.states": OTHERS,
    "adopt/notifications.pass": EXISTING,
    "adopt/ranges.make": STATE,
    "adopt/ranges.move": STATE,
    "adopt/records.rewrite": EXISTING,
    "adopt/repositories.actors": LOOKS,
    "adopt/repositories.cursor": STATE,
    "adopt/repositories.floors": LOOKS,
    "adopt/repositories.gap": STATE,
    "adopt/repositories.identities": LOOKS,
    "adopt/repositories.purged_again": STATE,
    "adopt/repositories.queue": LOOKS,
    "adopt/repositories.repos": LOOKS,
    "adopt/repositories.returned": STATE,
    "adopt/repositories.statuses": LOOKS,
    "adopt/revs.fill": EXISTING,
    "adopt/state.begin": STATE,
    "adopt/state.end": STATE,
    "adopt/state.move": STATE,
    "apply/account.actors": EXISTING,
    "apply/account.apply": STATE,
    "apply/account.contradicted": STATE,
    "apply/bookkeeping.advance_cursor": STATE,
    "apply/bookkeeping.ignored": CHECKED,
    "apply/bookkeeping.open_cursor": STATE,
    "apply/bookkeeping.report": NOBODY,
    "apply/contact_match.notify": LOOKS,
    "apply/counters.posts": OTHERS,
    "apply/counters.profiles": OTHERS,
    "apply/cursor.open": STATE,
    "apply/dead_letter.insert": CHECKED,
    "apply/duplicates.list": CHECKED,
    "apply/evaluation.ask_relationships": DERIVED,
    "apply/evaluation.evaluate_roots": DERIVED,
    "apply/evaluation.fetch_parents": DERIVED,
    "apply/evaluation.flag": DERIVED,
    "apply/evaluation.pend": DERIVED,
    "apply/export.advance": LOOKS,
    "apply/export.close_gaps": REMOVES,
    "apply/export.last_seen": LOOKS,
    "apply/export.refuse": STATE,
    "apply/gap.again": DROPPED,
    "apply/gap.note": DROPPED,
    "apply/gap_closing.close_chains": REMOVES,
    "apply/gap_closing.close_commits": REMOVES,
    "apply/gap_closing.close_records": REMOVES,
    "apply/gap_closing.link": EXISTING,
    "apply/identity.queue": LOOKS,
    "apply/label.advance": STATE,
    "apply/label.correct_count": STATE,
    "apply/label.count": STATE,
    "apply/label.derive": DERIVED,
    "apply/label.events": LABELS,
    "apply/label.known_again": EXISTING,
    "apply/label.make_labelers": LABELS,
    "apply/label.move_expired_to": NOBODY,
    "apply/label.survivors_again": EXISTING,
    "apply/label.without_effect": EXISTING,
    "apply/labeler.add_definitions": CHECKED,
    "apply/muted_thread.correct": DERIVED,
    "apply/muted_thread.mute": DROPPED,
    "apply/notification.insert": DROPPED,
    "apply/notification.keep": DERIVED,
    "apply/notification.renew": CHECKED,
    "apply/pair_notification.keep": DERIVED,
    "apply/pending.note": CHECKED,
    "apply/pair_notification.move": DERIVED,
    "apply/pair_notification.replace": DERIVED,
    "apply/post.add_embeds": CHECKED,
    "apply/post.add_quotes": CHECKED,
    "apply/post.feed": CHECKED,
    "apply/post.op_thread": CHECKED,
    "apply/post.remove": REMOVES,
    "apply/postgate.flag": CHECKED,
    "apply/postgate.unflag": REMOVES,
    "apply/quote_evaluation.evaluate": DERIVED,
    "apply/record.delete": REMOVES,
    "apply/record.tombstones": DROPPED,
    "apply/record.write": CHECKED,
    "apply/relay_names.batches": NOBODY,
    "apply/relay_names.cursors": NOBODY,
    "apply/relay_names.dead_letters": EXISTING,
    "apply/relay_names.gaps": NOBODY,
    "apply/repo.actors": LOOKS,
    "apply/repo.advance": STATE,
    "apply/repo.last_seen": LOOKS,
    "apply/repo.late_while_fetched": STATE,
    "apply/repo.last_seen_but_excluded": LOOKS,
    "apply/repo.make": STATE,
    "apply/repost.feed": CHECKED,
    "apply/sync_state.closed": REMOVES,
    "apply/sync_state.ended": STATE,
    "apply/sync_state.incomplete": STATE,
    "apply/sync_state.queue": LOOKS,
    "apply/subscription.find": DERIVED,
    "apply/threadgate.flag": CHECKED,
    "apply/threadgate.unflag": REMOVES,
    "apply/unchecked.keep": CHECKED,
    "apply/unchecked.queue": CHECKED,
    "apply/version.keep": DROPPED,
    "apply/version.op_thread": DROPPED,
    "backfill/fetch_batch.": NOBODY,
    "backfill/host.note": NOBODY,
    "backfill/listing.add_hosts": NOBODY,
    "backfill/listing.begin": NOBODY,
    "backfill/listing.fail": NOBODY,
    "backfill/listing.fail_host": NOBODY,
    "backfill/listing.move": NOBODY,
    "backfill/listing.move_host": NOBODY,
    "backfill/listing.release_hosts": NOBODY,
    "backfill/listing.take_hosts": NOBODY,
    "backfill/pending.missed": EXISTING,
    "backfill/pending.postpone": EXISTING,
    "backfill/pending.take": REMOVES,
    "backfill/queue.enqueue": QUEUED,
    "backfill/queue.enqueue_new": QUEUED,
    "backfill/queue.finish": EXISTING,
    "backfill/queue.note_queued": STATE,
    "backfill/queue.postpone": EXISTING,
    "backfill/queue.release": EXISTING,
    "backfill/queue.renew": EXISTING,
    "backfill/queue.set_hosts": EXISTING,
    "backfill/queue.take": EXISTING,
    "backfill/queue.take_given": EXISTING,
    "backfill/report.add": NOBODY,
    "backfill/repo_state.begin": LOOKS,
    "backfill/repo_state.end": STATE,
    "backfill/repo_state.fail": LOOKS,
    "backfill/repo_state.make": STATE,
    "identity/batch.": NOBODY,
    "identity/claims.release": EXISTING,
    "identity/claims.release_queues": EXISTING,
    "identity/import.merge": LOOKS,
    "identity/queue.expire": REMOVES,
    "identity/queue.hide": REMOVES,
    "identity/queue.postpone": EXISTING,
    "identity/queue.queue_refresh": EXISTING,
    "identity/queue.take": EXISTING,
    "identity/queue.want": ASKED,
    "identity/save.actors": LOOKS,
    "identity/save.dequeue_excluded": REMOVES,
    "identity/save.identities": LOOKS,
    "identity/save.lose": REMOVES,
    "identity/save.profiles": LOOKS,
    "identity/save.release": REMOVES,
    "identity/upstream.close": NOBODY,
    "identity/upstream.save": NOBODY,
    "labels/definition.set": BY_HAND,
    "labels/labeler.gap": LOOKS,
    "labels/labeler.open": STATE,
    "labels/labeler.reread": STATE,
    "labels/labeler.reread_gaps": STATE,
    "labels/labeler.states": STATE,
    "labels/labeler.want": LOOKS,
    "operations/table_size.measure": NOBODY,
    "repair/counters.advance": NOBODY,
    "repair/counters.posts_lock": OTHERS,
    "repair/counters.posts_rewrite": OTHERS,
    "repair/counters.profiles_lock": OTHERS,
    "repair/counters.profiles_rewrite": OTHERS,
    "repair/dead_letter.close_gap": REMOVES,
    "repair/dead_letter.covered": REMOVES,
    "repair/dead_letter.failed": EXISTING,
    "repair/dead_letter.resolved": EXISTING,
    "repair/duplicates.follow_head": DERIVED,
    "repair/notification.amended": DERIVED,
    "repair/post.gates": DERIVED,
    "repair/post.remains": DERIVED,
    "repair/post.unflag": DERIVED,
    "report/totals.count": NOBODY,
    "report/totals.move": NOBODY,
    "schema/0018_privacy.allow_data_collection": REMOVES,
    "schema/0018_privacy.follow_exclusion": STATE,
    "schema/0019_sync.follow_exclusion": STATE,
    "schema/0018_privacy.forbid_data_collection": STATE,
    "schema/0018_privacy.setting_changed": REMOVES,
    "schema/0024_labels.labeler_allowed": STATE,
    "schema/0025_operations.setting_changed": REMOVES,
    "signatures/check.break_chains": STATE,
    "signatures/check.disown": EXISTING,
    "signatures/check.later": EXISTING,
    "sweep/gap.close": REMOVES,
    "sweep/gap.close_of_stream": REMOVES,
    "sweep/label.sweep": EXISTING,
    "sweep/label_event.sweep": LOOKS,
    "sweep/sweep.begin": NOBODY,
    "sweep/sweep.failed": NOBODY,
    "sweep/sweep.note": NOBODY,
    "sweep/tombstone.raise": LOOKS,
    **{f"apply/{effect.name}.add": CHECKED for effect in EFFECTS.in_order},
}

_WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|MERGE\s+INTO|COPY)\s+(?:ONLY\s+)?(?:bsky|pipeline|\"?\{)")
_FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION \w+\.(\w+)\(.*?^(?:\$\$|END);$", re.MULTILINE | re.DOTALL)


def statements_that_write(folder: Path = CHECKOUT / "sql") -> set[str]:
    """Every statement that adds or changes rows of schemas bsky and pipeline, as `folder/file.name`.

    Migrations run once, on what is there; of them the functions count that they create.
    """
    found = set()
    for path in sorted(folder.rglob("*.sql")):
        place = str(path.relative_to(folder).with_suffix(""))
        text = path.read_text()
        if place.startswith("schema/"):
            named = {match[1]: match[0] for match in _FUNCTION.finditer(text)}
        else:
            named = {key: statement.text for key, statement in sql.statements(f"{place}.sql").items()}
        found |= {f"{place}.{name}" for name, text in named.items() if _WRITES.search(text)}
    return found


def test_of_every_statement_that_writes_it_is_known_why_it_respects_the_opt_out() -> None:
    written = statements_that_write()
    assert written - STATEMENTS.keys() == set(), "say in STATEMENTS why these store nothing new of excluded accounts"
    assert {name for name in STATEMENTS.keys() - written if not name.endswith(".add")} == set(), "there are none such"


def test_a_new_statement_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "0099_new.sql").write_text(
        "CREATE FUNCTION pipeline.remember(did text) RETURNS void LANGUAGE sql\nBEGIN ATOMIC\n"
        "    INSERT INTO bsky.actor (did) VALUES (did);\nEND;\nINSERT INTO bsky.actor VALUES ('x');\n"
    )
    assert statements_that_write(tmp_path) == {"schema/0099_new.remember"}


# ---------------------------------------------------------------------------------------------------------------------
# Who runs them: modules of store/ that name a file with such statements, and all others that call these to write.

MODULES = {
    "accounts": "test_hosting_statuses",
    "adoption": "test_adoptions",
    "adoption_ranges": "test_adoptions",
    "adoption_steps": "test_adoptions",
    "apply": "test_live",
    "backfill_queue": "test_the_queue_of_repositories",
    "backfill_reports": "test_the_queue_of_repositories",
    "bookkeeping": "test_live",
    "contacts": "test_matches_of_contacts",
    "counters": "test_reruns_and_recounts",
    "cursors": "test_live",
    "dead_letters": "test_retries_of_dead_letters",
    "evaluation": "test_live",
    "gaps": "test_live",
    "fetch_reports": "test_records_fetched_one_by_one",
    "hosts": "test_the_queue_of_repositories",
    "identities": "test_resolution",
    "identity_claims": "test_resolution",
    "identity_import": "test_imports_of_a_directory",
    "identity_reports": "test_resolution",
    "sweeps": "test_sweeps_of_labels",
    "label_definitions": "test_definitions_of_labels",
    "labelers": "test_labelers_that_are_read",
    "labels": "test_labels",
    "listing": "test_the_network_listed_fetched_and_surveyed",
    "notifications": "test_live",
    "pending": "test_single_records_that_are_missing",
    "placeholders": "test_live",
    "records": "test_live",
    "removal": "test_purges",
    "repair_chunk": "test_reruns_and_recounts",
    "repo_states": "test_exports",
    "repos": "test_live",
    "run_effects": "test_live",
    "signatures": "test_signatures_that_are_settled_later",
    "table_sizes": "test_sizes_of_tables",
    "totals": "test_live",
    "trial": "test_explanations",
    "upstreams": "test_resolution",
}
"""Modules of store/ that run such statements, and the test that drives each."""

LOCKING = {
    *("Writer", "apply", "build_again", "import_documents", "save", "save_statuses", "notify_contact_match"),
    "apply_labels",
}
"""What the rest of the code calls to write content."""

PATHS = {
    "backfill/car_file.py": "test_repositories_that_are_fetched_or_read_from_a_file",
    "backfill/fetch_live.py": "test_records_fetched_one_by_one",
    "backfill/on_demand.py": "test_records_fetched_one_by_one",
    "backfill/resync.py": "test_repositories_that_are_fetched_or_read_from_a_file",
    "backfill/survey.py": "test_the_network_listed_fetched_and_surveyed",
    "backfill/worker.py": "test_the_network_listed_fetched_and_surveyed",
    "backfill/writing.py": "test_the_network_listed_fetched_and_surveyed",
    "ingest/adopted_records.py": "test_adoptions",
    "ingest/dead_letters.py": "test_retries_of_dead_letters",
    "ingest/files/replay.py": "test_replay",
    "ingest/live/consumer.py": "test_live",
    "ingest/live/replay_range.py": "test_replay_of_a_range",
    "ingest/removal.py": "test_purges",
    "ingest/retention.py": "test_retention",
    "ingest/rerun.py": "test_reruns_and_recounts",
    "ingest/signatures.py": "test_signatures_that_are_settled_later",
    "ingest/transactions.py": "test_live",
    "identity/on_demand.py": "test_resolution",
    "identity/plc_import.py": "test_imports_of_a_directory",
    "identity/worker.py": "test_resolution",
    "operations/explain.py": "test_explanations",
    "operations/import_predecessor.py": "test_labels_of_the_predecessor",
    "labels/bulk.py": "test_labels_made_here",
    "labels/dead_letters.py": "test_retries_of_labels",
    "labels/service.py": "test_labels_made_here",
    "labels/writer.py": "test_streams_of_labelers",
}
"""Who calls these, and the test that drives each."""


def modules_of_store_that_write() -> set[str]:
    files = {name.rpartition(".")[0] for name in statements_that_write()}
    folders = {name.partition("/")[0] for name in files}
    found = set()
    for path in sorted((CHECKOUT / "appview_pipeline" / "store").rglob("*.py")):
        if "migrations" in path.parts or path.stem == "sql":  # which run or read any file
            continue
        named = re.findall(r'f?"(\w+)/([\w{}.]+)\.sql"', path.read_text())
        if any(f"{folder}/{file}" in files or ("{" in file and folder in folders) for folder, file in named):
            found.add(path.stem)
    return found


def callers() -> set[str]:
    """Modules outside of store/ that name one of `LOCKING`: imported by itself, or as a part of its module."""
    package = CHECKOUT / "appview_pipeline"
    found = set()
    for path in sorted(package.rglob("*.py")):
        place = str(path.relative_to(package))
        nodes = [] if place.startswith("store/") else list(ast.walk(ast.parse(path.read_text())))
        imports = [it for it in nodes if isinstance(it, ast.ImportFrom) and (it.module or "").startswith("appview_pi")]
        names = {alias.name for it in imports for alias in it.names}
        parts = {it.attr for it in nodes if isinstance(it, ast.Attribute) and getattr(it.value, "id", None) in names}
        if (names | parts) & LOCKING:
            found.add(place)
    return found


def test_every_module_that_writes_is_driven_by_a_test() -> None:
    assert modules_of_store_that_write() == MODULES.keys(), "drive it with an account that has opted out"
    assert callers() == PATHS.keys(), "drive it with an account that has opted out"
    assert {*MODULES.values(), *PATHS.values()} <= globals().keys()


# ---------------------------------------------------------------------------------------------------------------------
# The paths, driven. `ann` has opted out before anything was known of her; `old` after she was indexed.

MARK = "zebra-crossing"
"""A text that only the accounts write that have opted out."""

KEPT = {"pipeline.repo", "pipeline.actor_setting"}
"""What names such an account all the same: its row by which writers know it, and the opt-out itself."""


def forbid(database: Database, person: Person) -> None:
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", person.did)


def marked(person: Person, text: str = MARK) -> list[Any]:
    """A record of each collection, with a text."""
    writes = one_of_each(person)
    return [*writes[1:], post("a", text), create("com.example.note/1", {"text": text})]


def news_of(before: Traces, database: Database, *people: Person) -> Traces:
    """What names these accounts, or holds the text, and did not before."""
    return traces(database.url, MARK, *(person.did for person in people)) - before


def test_adoptions(database: Database) -> None:
    """A database that was given back, and is adopted again: what the reference's indexer has left of the account stays
    as it is, and nothing is added."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(database, *everything(ann, stream), *everything(bob, stream))
    forbid(database, ann)
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE bsky.record SET rev = NULL WHERE did = %s", (ann.did,))
        cursor.execute("DELETE FROM bsky.actor WHERE did = %s", (ann.did,))
    database.engine.dispose()
    leave(database)
    before = traces(database.url, MARK, ann.did)
    adopt(load(), database, compare=True, watch=False)
    assert tables_of(news_of(before, database, ann)) <= {"bsky.record", "bsky.post"}  # which have their revs again


def everything(person: Person, stream: Stream) -> list[bytes]:
    """Frames in which an account does all that leaves something somewhere; may be repeated.

    Records, edits, deletions, refused records and commits, records of collections that are not indexed, identity and
    status events, a gap.
    """
    number = stream.seq
    frames = [] if "app.bsky.actor.profile/self" in person.repository.own else [person.commit(*marked(person))]
    there = [
        path for path in ("app.bsky.graph.verification/a", "app.bsky.feed.like/a") if path in person.repository.own
    ]
    frames += [
        person.commit(post(f"b{number}", MARK), create(f"com.example.note/{number}", {"text": MARK})),
        person.commit(update("app.bsky.actor.profile/self", {"displayName": "x", "description": f"{MARK} {number}"})),
        person.commit(*map(delete, there), delete(f"app.bsky.feed.post/b{number}")),
        person.commit(post(f"bad{number}", MARK, langs=MARK), post(f"good{number}", MARK)),
        person.commit(post(f"toobig{number}", MARK), tooBig=True),
        stream.frame("#identity", {"did": person.did, "handle": f"{MARK}.test"}),
        stream.account(person.did, False, "deactivated"),
        stream.account(person.did, True),
    ]
    person.commit(post(f"lost{number}", MARK))
    return [*frames, person.commit(post(f"after{number}", MARK)), person.sync()]


def test_the_search_finds_what_an_account_leaves(database: Database) -> None:
    """Without an opt-out; otherwise the tests below would show nothing."""
    stream = Stream()
    ann = Person(stream, "ann")
    index(database, *everything(ann, stream))
    found = tables_of(traces(database.url, MARK))
    assert {"bsky.record", "bsky.post", "pipeline.dead_letter"} <= found
    found = tables_of(traces(database.url, ann.did))
    assert len(found) > 25 and {"pipeline.version", "pipeline.gap", "bsky.actor_sync", "pipeline.identity"} <= found
    letters = traces(database.url, "tooBig")
    assert tables_of(letters) == {"pipeline.dead_letter"}, "in bytes, too"


def test_live(database: Database, start: Start) -> None:
    """The consumer, with an account that opts out before it is met and one that opts out while it is busy."""
    stream = Stream()
    ann, old, bob = (Person(stream, name) for name in ("ann", "old", "bob"))
    forbid(database, ann)
    with Relay([old.commit(*marked(old, "was here before")), bob.commit(post("a", "bob's"))]) as relay:
        consumer = start(database.url, relay.url, APPVIEW_EXTRA_COLLECTIONS="com.example.*")
        until(lambda: cursor(database, relay.url) == 2, consumer)
        assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did = %s", old.did) > 15
        forbid(database, old)
        before = traces(database.url, old.did)
        for person in (ann, old, ann):
            relay.publish(everything(person, stream))
        relay.publish([bob.commit(post("b", "bob's"))])
        until(lambda: cursor(database, relay.url) == stream.seq, consumer)
        assert consumer.end() < 10
    rows(database.url, "UPDATE pipeline.batch SET applied_at = applied_at - interval '1 hour'")
    with database.connect("maintenance") as connection:
        count_reports(connection)
    assert one(database.url, "SELECT sum(value) FROM pipeline.total WHERE name = 'stream_withheld'") > 10
    assert tables_of(news_of(before, database, ann)) == KEPT
    # The other one deleted records. That leaves what says so, and the count of likes of a post of hers that she liked.
    news = tables_of(news_of(before, database, old))
    assert news == {"pipeline.repo", "pipeline.tombstone", "pipeline.version", "bsky.post_agg"}
    assert traces(database.url, MARK) == {}
    assert one(database.url, "SELECT count(*) FROM bsky.post WHERE text = %s", "bob's") == 2
    assert one(database.url, "SELECT sum(withheld) FROM pipeline.batch") > 10
    assert rows(database.url, "SELECT rev FROM pipeline.repo WHERE did = %s", ann.did) == [(ann.repository.rev,)]


def test_replay(database: Database, tmp_path: Path) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    forbid(database, ann)
    for size in (1, 100):
        replayed_frames(database, tmp_path, everything(ann, stream), batch_size=size, extra_collections=("com.*",))
    assert tables_of(traces(database.url, ann.did, MARK)) == KEPT


def test_exports(database: Database) -> None:
    """Also where the account opts out while its export is compared."""
    stream = Stream()
    ann, old = Person(stream, "ann"), Person(stream, "old")
    forbid(database, ann)
    index(database, old.commit(*marked(old, "was here before")))
    with database.connect("writer") as connection:
        assert begin_resync(connection, ann.did) is None
        fail_resync(connection, ann.did, MARK, parked=True)
        assert begin_resync(connection, old.did) is not None
    forbid(database, old)
    before = traces(database.url, old.did)
    for person in (ann, old):
        person.commit(post("b", MARK))
        writes = [write for change in changes_of(person.commit(post("c", MARK))) for write in change.writes]
        rev = person.repository.rev
        assert rev is not None
        state = ExportState(person.did, rev, "commit", "tree", is_last=True, is_whole=True)
        writer_for(database).write([Change(size=0, export=state, writes=writes)], time.time())
    with database.connect("writer") as connection:
        assert begin_resync(connection, old.did) is None
    assert tables_of(news_of(before, database, ann, old)) == KEPT
    assert rows(database.url, "SELECT DISTINCT rev FROM pipeline.repo WHERE did = %s", ann.did) == [(None,)]


def test_repositories_that_are_fetched_or_read_from_a_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the account opts out while its repository is fetched."""
    stream = Stream()
    ann, old = Person(stream, "ann"), Person(stream, "old")
    settings = Settings(database_url=database.url)
    everything(ann, stream)
    everything(old, stream)
    index(database, old.commit(post("known", "was here before")))
    forbid(database, ann)
    before = traces(database.url, old.did)
    fetcher = MemoryFetcher(ann, old)

    def fetch(did: str, *, newer_than: str | None = None) -> Export:
        forbid(database, old)
        return MemoryFetcher(ann, old).repository(did)

    with pytest.raises(FetchFailed, match=EXCLUDED):
        resync(settings, database, fetcher, writer_for(database), ann.did)
    with monkeypatch.context() as patched:
        patched.setattr(fetcher, "repository", fetch)
        assert resync(settings, database, fetcher, writer_for(database), old.did).counts.creates > 10
    for person in (ann, old):
        file = tmp_path / "it.car"
        file.write_bytes(person.repository.export())
        with pytest.raises(OperatorError, match=EXCLUDED):
            backfill_from_file(settings, database, file, person.did)
    assert traces(database.url, MARK) == {}
    # The row of the identity that was queued when the account was indexed: it is not any more.
    assert tables_of(news_of(before, database, ann, old)) == {*KEPT, "pipeline.identity"}


def test_replay_of_a_range(database: Database) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    forbid(database, ann)
    with Relay(everything(ann, stream)) as relay:
        found = replay_range(Settings(database_url=database.url, relay_url=relay.url), database, 1, stream.seq)
    assert found.events > 5 and tables_of(traces(database.url, ann.did, MARK)) == KEPT


def test_the_queue_of_repositories(database: Database) -> None:
    """Accounts that opted out are not queued, nor listed; one that opts out while it is queued leaves the queue."""
    stream = Stream()
    ann, old = Person(stream, "ann"), Person(stream, "old")
    forbid(database, ann)
    with database.connect("writer") as connection:
        for did in (ann.did, old.did):
            backfill_queue.enqueue(connection, [did], reason="requested", priority=backfill_queue.ASKED)
            backfill_queue.enqueue_new(connection, [did], reason="discovered", priority=backfill_queue.REST)
        backfill_queue.queue_unknown(connection)
        backfill_queue.queue_incomplete(connection)
        hosts.note_hosts(connection, [hosts.HostNews("https://pds.example", 1, 0, None, 0.0)])
        backfill_reports.add_report(connection, backfill_reports.BackfillReport(None, 1.0))
        (taken,) = backfill_queue.take_given(connection, [ann.did, old.did], 60.0)
    assert taken.did == old.did
    forbid(database, old)
    with database.connect("writer") as connection:
        # As of one that was queued by a process that looked before the account opted out.
        with connection.cursor() as cursor:
            values = "(did, reason) VALUES (%s, 'discovered')"
            cursor.execute(f"INSERT INTO pipeline.backfill_queue {values}", (old.did,))
        later = backfill_queue.Postponed(old.did, taken.enqueued_at, "excluded", 60.0, counts=False)
        backfill_queue.postpone(connection, [later])
    assert tables_of(traces(database.url, ann.did)) == KEPT
    assert tables_of(traces(database.url, old.did)) == KEPT


def test_the_network_listed_fetched_and_surveyed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One account opted out before, another one while it is queued."""
    monkeypatch.setattr(backoff, "SURVEY_RECHECK_SECONDS", 0.0)
    world = World(3, 12, start=time.time() - 60, pasts=())
    with SimulatedNetwork(world) as network:
        network.advance(60)
        settings = replace(load(network.environment()), database_url=database.url, backfill_days=-1)
        ann, old = world.authors[0].did, world.authors[1].did
        assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", ann)
        assert list_network(settings, database).queued == 11
        assert one(database.url, "SELECT pipeline.forbid_data_collection(%s)", old)
        before = traces(database.url, ann, old)
        assert work(settings, database).repositories == 10
        rows(
            database.url,
            "INSERT INTO pipeline.gap (kind, relay, shard, from_text, to_text)"
            " VALUES ('sequence', %s, '0/1', '1', '9')",
            network.relay_url,
        )
        network.advance(60)
        assert close_stream_gaps(settings, database).missing > 0
    # What others wrote about them is theirs.
    stored = tables_of(traces(database.url, ann, old) - before)
    own = {"actor", "actor_sync", "profile"}
    assert not stored & ({f"bsky.{name}" for name in own} | {"pipeline.backfill_queue", "pipeline.gap"})
    assert one(database.url, "SELECT count(*) FROM bsky.record WHERE did IN (%s, %s)", ann, old) == 0


@pytest.mark.parametrize("whole", [True, False], ids=["frames", "records"])
def test_retries_of_dead_letters(database: Database, whole: bool) -> None:
    """Their bytes are deleted with the opt-out; one that got away is not retried, nor is one of which nobody knew whose
    it is."""
    stream = Stream()
    ann = Person(stream, "ann")
    refused = ann.commit(post("a", MARK), tooBig=True) if whole else ann.commit(post("a", MARK, langs=MARK))
    index(database, ann.commit(post("first", "fine")), refused)
    (letter,) = rows(database.url, "SELECT bytes FROM pipeline.dead_letter")
    assert MARK.encode() in bytes(letter[0])
    forbid(database, ann)
    assert rows(database.url, "SELECT bytes FROM pipeline.dead_letter") == [(None,)]
    assert traces(database.url, MARK) == {}
    good = ann.commit(post("b", MARK))
    rows(
        database.url,
        "UPDATE pipeline.dead_letter SET bytes = %s, byte_length = %s, form = 'frame', path = NULL, did = NULL",
        good,
        len(good),
    )
    before = traces(database.url, MARK, ann.did)
    found = retry_dead_letters(Settings(database_url=database.url), database)
    assert found.impossible == {EXCLUDED: 1} and found.resolved == 0
    assert news_of(before, database, ann) == {}


@pytest.mark.parametrize("opted_out", [True, False], ids=["opted out", "as anybody"])
def test_signatures_that_are_settled_later(database: Database, opted_out: bool) -> None:
    """Of commits that were applied unchecked, and of dead letters that wait for a fresh key. The opt-out forgets the
    former; it may come while the process that settles them has them in hand."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    settings = Settings(database_url=database.url)
    verifier, writer = verifier_for(settings, database), writer_for(database)

    def write(*frames: bytes) -> None:
        writer.write(changes_of(*frames, verifier=verifier), time.time())

    write(ann.commit(post("a", MARK)), bob.commit(post("a", "bob's")))
    save_key(database, bob.did, ann.key)
    write(bob.commit(post("b", MARK)))
    assert rows(database.url, "SELECT kind, did FROM pipeline.dead_letter") == [("commit-signature", bob.did)]
    save_key(database, ann.did, bob.key)
    save_key(database, bob.did, bob.key)
    unchecked = rows(database.url, "SELECT * FROM pipeline.unchecked_commit")
    if opted_out:
        forbid(database, ann)
        forbid(database, bob)
        assert one(database.url, "SELECT count(*) FROM pipeline.unchecked_commit") == 0
        for row in unchecked:
            rows(database.url, "INSERT INTO pipeline.unchecked_commit VALUES (%s, %s, %s, %s, %s, %s)", *row)
    before = traces(database.url, MARK, ann.did, bob.did)
    done = settle_signatures(settings, database, writer)
    if opted_out:
        assert news_of(before, database, ann, bob) == {}
    else:
        assert (done.checked, done.good, done.bad, done.retried) == (3, 2, 1, 1)
        assert one(database.url, "SELECT count(*) FROM bsky.post WHERE text = %s", MARK) == 2
    assert one(database.url, "SELECT count(*) FROM pipeline.unchecked_commit") == 0


def test_a_record_whose_block_is_missing(database: Database) -> None:
    """A stored copy does not become another record of the account."""
    ann = Person(Stream(), "ann")
    index(database, ann.commit(post("a", MARK)))
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    frame = without_block(ann.commit(post("b", MARK)), "app.bsky.feed.post/b")
    index(database, frame)
    assert tables_of(news_of(before, database, ann)) == {"pipeline.repo"}
    assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", ann.did)
    index(database, frame)
    assert one(database.url, "SELECT count(*) FROM bsky.post") == 2, "that is how it would have come back"


def test_single_records_that_are_missing(database: Database) -> None:
    """What an excluded account wrote is not fetched, though others wait for it, and nothing more is noted of it."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    lost = strong_ref(ann.uri("app.bsky.feed.post/lost"))
    index(database, bob.commit(post("a", "bob's", reply={"root": lost, "parent": lost})))
    forbid(database, ann)
    before = traces(database.url, ann.did)
    with database.connect("writer") as connection:
        assert take_missing(connection, 10, 60.0) == []
        missed(connection, [(lost["uri"], "", 1.0, False)])
        postpone(connection, [lost["uri"]], 1.0)
    ((not_before, error),) = rows(database.url, "SELECT not_before, error FROM pipeline.pending")
    assert not_before is None and error is None
    assert tables_of(news_of(before, database, ann)) <= {"pipeline.pending"}


def test_records_fetched_one_by_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that fetches what replies depend on: asked for before the opt-out, and after it."""
    monkeypatch.setattr(backoff, "MISSING_RECORDS_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "FETCH_REPORT_SECONDS", 0.1)
    with SimulatedNetwork(seed=5, accounts=24) as network:
        frames = network.advance(700)
        known = {author.did.encode() for author in network.world.authors[::3]}
        index(database, *(frame for frame in frames if peek_did(frame) in known))
        missing = rows(database.url, "SELECT DISTINCT split_part(missing, '/', 3) FROM pipeline.pending")
        others = [did for (did,) in missing if did.encode() not in known]
        assert others and one(database.url, "SELECT pipeline.forbid_data_collection(%s)", others[0])
        settings = replace(load(network.environment()), database_url=database.url)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            ends = pool.submit(fetch_live, settings, stop.is_set)
            try:
                due_rows = "SELECT count(*) FROM pipeline.pending WHERE not_before <= now()"
                found = "SELECT count(*) FROM pipeline.fetch_batch WHERE found > 0"
                wait_for(lambda: (one(database.url, found) and not one(database.url, due_rows)) or ends.done(), 60)
            finally:
                stop.set()
                ends.result(30)
    stored = "SELECT count(*) FROM bsky.record WHERE did = %s"
    assert one(database.url, stored, others[0]) == 0 and any(one(database.url, stored, did) for did in others[1:])


def test_reruns_and_recounts(database: Database) -> None:
    """They make again what follows from stored records, and nothing else."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(database, ann.commit(*marked(ann)), bob.commit(create("app.bsky.graph.follow/a", {"subject": ann.did})))
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    rows(database.url, "DELETE FROM bsky.post")
    rows(database.url, "DELETE FROM bsky.profile_agg")
    index(database, *everything(ann, stream)[:2])
    assert rerun_collections(database, DERIVED_COLLECTIONS).changed["post"] == 1
    for table in TABLES:
        recount(database, table, rewrite=True)
    assert tables_of(news_of(before, database, ann)) <= {"pipeline.repo"}


def test_explanations(database: Database) -> None:
    """They run the write path's statements, and roll back."""
    stream = Stream()
    ann = Person(stream, "ann")
    writes = marked(ann)
    index(database, ann.commit(*writes))
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    for write in writes:
        explain(Settings(database_url=database.url), database, ann.uri(write.path))
    assert tables_of(news_of(before, database, ann)) == set()


def test_purges(database: Database) -> None:
    """The job removes what is stored; what comes afterwards is not stored either, and the opt-out is still there."""
    stream = Stream()
    ann = Person(stream, "ann")
    settings = Settings(database_url=database.url)
    index(database, *everything(ann, stream))
    assert one(database.url, "SELECT pipeline.forbid_data_collection(%s, purge => true)", ann.did)
    index(database, *everything(ann, stream))
    assert remove_accounts(settings, database).accounts == 1
    purged = KEPT | {"pipeline.removal"}
    assert tables_of(traces(database.url, ann.did, MARK)) == purged
    index(database, *everything(ann, stream), stream.account(ann.did, False, "deleted"))
    with database.connect("writer") as connection:
        save_statuses(connection, [PdsStatus(ann.did, "gone", is_final=True)])
    assert remove_accounts(settings, database).accounts == 0
    index(database, *everything(ann, stream))
    assert tables_of(traces(database.url, ann.did, MARK)) == purged
    assert one(database.url, "SELECT data_collection_forbidden FROM pipeline.actor_setting")


def test_retention(database: Database) -> None:
    """It only deletes, of accounts that have opted out too: their records that are kept are those of before."""
    stream = Stream()
    ann = Person(stream, "ann")
    index(database, *everything(ann, stream))
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    settings = Settings(database_url=database.url, retention_days=1)
    assert apply_retention(settings, database).total > 0
    assert tables_of(news_of(before, database, ann)) <= {"bsky.profile_agg"}, "which counts less"
    before = traces(database.url, MARK, ann.did)
    index(database, *everything(ann, stream), retention_days=1)
    assert tables_of(news_of(before, database, ann)) <= {"pipeline.repo"}


def test_imports_of_a_directory(database: Database) -> None:
    ann, bob = Person(Stream(), "ann"), Person(Stream(), "bob")
    forbid(database, ann)
    documents = [
        ImportedDocument(did=it.did, created_at="2026-01-01T00:00:00Z", doc="{}", claimed_handle=f"{MARK}.test")
        for it in (ann, bob)
    ]
    with database.connect("writer") as connection:
        counts = import_documents(connection, documents)
    assert (counts.excluded, counts.added) == (1, 1)
    assert tables_of(traces(database.url, ann.did)) == KEPT


def test_resolution(database: Database) -> None:
    """Asked for before the opt-out, and by name after it."""
    stream = Stream()
    ann = Person(stream, "ann")
    index(database, stream.frame("#identity", {"did": ann.did}))
    with database.connect("writer") as connection:
        (taken,) = claim(connection, [ann.did], 60)
    forbid(database, ann)
    found = Settled(ann.did, taken.asked_at, "found", "plc", 60.0, doc=json.dumps({"id": MARK}), handle=f"{MARK}.test")
    for _ in range(2):
        with database.connect("writer") as connection:
            save(connection, [found], usable_seconds=60)
            want(connection, [ann.did])
    with database.connect("writer") as connection:
        assert claim(connection, [ann.did], 60) == []
    assert traces(database.url, MARK) == {}
    assert tables_of(traces(database.url, ann.did)) == KEPT | {"pipeline.identity"}
    assert rows(database.url, "SELECT queue, doc, handle FROM pipeline.identity") == [(None, None, None)]


def test_labelers_that_are_read(database: Database) -> None:
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    with database.connect("writer") as connection:
        assert want_labelers(connection, [ann.did, bob.did]) == [bob.did]
        assert open_labeler(connection, ann.did, "wss://labels.example") is None
        assert not note_gap(connection, ann.did, 7)
        assert not set_states(connection, [LabelerState(ann.did, "parked", MARK, False, 0)])
        assert not reread(connection, ann.did)
    assert not news_of(before, database, ann)


def test_labels(database: Database) -> None:
    """Those that an excluded labeler makes are withheld, with its dead letters. Those about its account are stored."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    said = [label_row(ann.did, bob.did, MARK, seq=1), label_row(ann.did, bob.did, MARK, neg=True, seq=2)]
    letter = DeadLetter("label-syntax", MARK, 3, ann.did, None, MARK.encode(), form="label")
    progress = LabelerProgress(ann.did, "wss://labels.example", 0, 3, frames=3)
    letters = letter_rows([letter], "wss://labels.example", 1_000)
    with database.connect("writer") as connection:
        report = apply_labels(connection, LabelBatch(said, [progress], letters))
        assert (report.withheld, report.added) == (2, 0)
        announce_expired(connection)
        rebuild_labels(connection, ann.did)
    assert not news_of(before, database, ann)
    about = label_row(bob.did, ann.did, MARK, seq=1)
    assert apply_rows(database, [about]).added == 1
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE uri = %s", ann.did) == 1


def test_streams_of_labelers(database: Database) -> None:
    """Frames that were read before their labeler opted out, with labels of all kinds. The cursor stays."""
    stream = Stream()
    ann, old = Person(stream, "ann"), Person(stream, "old")
    endpoint = "wss://labels.example"
    with database.connect("writer") as connection:
        want_labelers(connection, [old.did])
        assert open_labeler(connection, old.did, endpoint) == 0
    apply_rows(database, [label_row(old.did, ann.did, "before", seq=1)])
    forbid(database, old)
    before = traces(database.url, MARK, old.did)
    position, when = Position(old.did, endpoint, 0), "2025-01-01T00:00:00Z"
    values = [
        {"ver": 1, "src": old.did, "uri": ann.did, "val": MARK, "cts": when},
        {"ver": 1, "src": old.did, "uri": ann.did, "val": "before", "neg": True, "cts": when},
        {"ver": 2, "src": old.did, "uri": ann.did, "val": MARK, "cts": when},
        {"ver": 1, "src": ann.did, "uri": ann.did, "val": MARK, "cts": when},
    ]
    read, _ = read_frames(
        [labels_frame(7, values), MARK.encode()], position, LabelerKeys([old.did]), time.time_ns() // 1_000
    )
    assert [frame.labels for frame in read] == [4, 1]
    LabelWriter(database, Settings(database_url=database.url)).write(read, time.time())
    assert not news_of(before, database, old) and position.is_lost
    assert one(database.url, "SELECT cursor FROM pipeline.labeler") == 0
    assert rows(database.url, "SELECT val, neg FROM bsky.label") == [("before", False)]
    assert traces(database.url, MARK) == {}


def test_retries_of_labels(database: Database) -> None:
    """Their bytes are deleted with the opt-out; one that got away is not retried."""
    stream = Stream()
    old, bob = Person(stream, "old"), Person(stream, "bob")
    value = {"ver": 1, "src": old.did, "uri": bob.did, "val": MARK, "cts": "2025-01-01T00:00:00Z"}
    letters = [
        DeadLetter("label-unsigned", MARK, seq, old.did, None, content, form=form)
        for seq, (form, content) in enumerate(
            [("label", encode_label(value)), ("label-frame", labels_frame(2, [value]))], 1
        )
    ]
    with database.connect("writer") as connection:
        apply_labels(connection, LabelBatch([], dead_letters=letter_rows(letters, "wss://labels.example", 1_000)))
    kept = [bytes(content) for (content,) in rows(database.url, "SELECT bytes FROM pipeline.dead_letter ORDER BY id")]
    forbid(database, old)
    settings = Settings(database_url=database.url, unsigned_labelers=(old.did,))
    assert rows(database.url, "SELECT DISTINCT bytes FROM pipeline.dead_letter") == [(None,)]
    assert sum(retry_letters_of_labelers(settings, database).impossible.values()) == 2
    for content in kept:
        rows(database.url, "UPDATE pipeline.dead_letter SET bytes = %s WHERE byte_length = %s", content, len(content))
    before = traces(database.url, MARK, old.did)
    found = retry_letters_of_labelers(settings, database)
    assert found.impossible == {EXCLUDED: 2} and found.resolved == 0
    assert news_of(before, database, old) == {}
    assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", old.did)
    assert retry_letters_of_labelers(settings, database).resolved == 2
    assert one(database.url, "SELECT val FROM bsky.label") == MARK


def test_labels_made_here(database: Database) -> None:
    """By an operator whose own labeler has opted out: they hear of it."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    forbid(database, ann)
    settings = Settings(database_url=database.url, labeler_did=ann.did)
    before = traces(database.url, MARK, ann.did)
    with pytest.raises(OperatorError, match="opted out"):
        make_labels(settings, database, [LabelRequest(bob.did, MARK)])
    with pytest.raises(OperatorError, match="opted out"):
        apply_file(settings, database, BytesIO(f"{bob.did},{MARK}\n".encode()), refuse=lambda number, reason: None)
    assert news_of(before, database, ann) == {}


def test_labels_of_the_predecessor(database: Database) -> None:
    """They would be those of an operator whose own labeler has opted out."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    with scratch_database(database.url) as url:
        predecessor.make(url)
        rows(url, "INSERT INTO labels (uri, src, subject, val) VALUES ('at://x', %s, %s, %s)", ann.did, bob.did, MARK)
        with pytest.raises(OperatorError, match="opted out"):
            import_predecessor(Settings(database_url=database.url, labeler_did=ann.did), database, url)
    assert news_of(before, database, ann) == {}


def test_definitions_of_labels(database: Database) -> None:
    """What the labeler's record defines is not stored; what the operator says of its labels is the operator's."""
    stream = Stream()
    ann = Person(stream, "ann")
    forbid(database, ann)
    before = traces(database.url, MARK, ann.did)
    policies = {"labelValues": [MARK], "labelValueDefinitions": []}
    index(database, ann.commit(create("app.bsky.labeler.service/self", {"policies": policies, "createdAt": WHEN})))
    assert tables_of(news_of(before, database, ann)) <= {"pipeline.repo"}
    settings = Settings(database_url=database.url, labeler_did=ann.did)
    set_definition(settings, database, "rude", locales=[Strings("en", "Rude", "Says rude things.")])
    assert tables_of(news_of(before, database, ann)) <= {"pipeline.repo", "pipeline.label_definition"}
    assert rows(database.url, "SELECT val, is_local FROM pipeline.label_definition") == [("rude", True)]


def test_sweeps_of_labels(database: Database) -> None:
    """What one said before it opted out is swept as the labels of others, and does not make a row that names it."""
    stream = Stream()
    old, bob = Person(stream, "old"), Person(stream, "bob")
    apply_rows(database, [label_row(who.did, bob.did, MARK, seq=1) for who in (old, bob)])
    apply_rows(database, [label_row(who.did, bob.did, MARK, neg=True, seq=2) for who in (old, bob)])
    forbid(database, old)
    before = traces(database.url, MARK, old.did)
    with database.connect("maintenance") as connection:
        assert sweep_to_its_end(connection, "label events", datetime.now(timezone.utc)) == 2
    assert not news_of(before, database, old)
    assert rows(database.url, "SELECT src FROM pipeline.label_swept") == [(bob.did,)]


def test_sizes_of_tables(database: Database) -> None:
    """They say how large tables are, and name no account."""
    ann = Person(Stream(), "ann")
    forbid(database, ann)
    with database.connect("maintenance") as connection:
        assert len(measure_tables(connection)) > 50
    assert tables_of(traces(database.url, ann.did)) == KEPT


def test_hosting_statuses(database: Database) -> None:
    """They are followed, for an account may have been deleted; they make no row that readers see."""
    ann = Person(Stream(), "ann")
    forbid(database, ann)
    with database.connect("writer") as connection:
        save_statuses(connection, [PdsStatus(ann.did, "active"), PdsStatus("did:plc:" + "b" * 24, "active")])
    assert tables_of(traces(database.url, ann.did)) == KEPT


def test_matches_of_contacts(database: Database) -> None:
    ann, bob, eve = (Person(Stream(), name) for name in ("ann", "bob", "eve"))
    forbid(database, ann)
    with database.connect("writer") as connection:
        matches = [ContactMatch(it.did, it.uri("app.bsky.actor.profile/self"), "cid") for it in (ann, eve)]
        assert notify_contact_match(connection, bob.did, matches) == 1
    assert tables_of(traces(database.url, ann.did)) == KEPT


def test_what_others_write_about_the_account_stays_theirs(fresh: Fresh) -> None:
    """Likes, replies, mentions, follows and lists of others are the same rows with and without the opt-out."""

    def told(database: Database, opted_out: bool) -> list[list[tuple[Any, ...]]]:
        stream = Stream()
        ann, bob = Person(stream, "ann"), Person(stream, "bob")
        first = ann.commit(post("a", "the post"))
        index(database, first)
        if opted_out:
            forbid(database, ann)
        subject = {
            "uri": ann.uri("app.bsky.feed.post/a"),
            "cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
        }
        dated = {"createdAt": "2025-06-15T15:06:40.000Z"}
        index(
            database,
            bob.commit(
                create("app.bsky.feed.like/a", {"subject": subject, **dated}),
                create("app.bsky.graph.follow/a", {"subject": ann.did, **dated}),
                post("a", "a reply", reply={"root": subject, "parent": subject}),
            ),
        )
        return [
            rows(database.url, statement)
            for statement in (
                'SELECT uri, subject FROM bsky."like"',
                'SELECT uri, "subjectDid" FROM bsky.follow',
                'SELECT "likeCount", "replyCount" FROM bsky.post_agg',
                'SELECT did, "followersCount", "postsCount" FROM bsky.profile_agg ORDER BY did',
                "SELECT did, reason FROM bsky.notification ORDER BY 2",
            )
        ]

    with fresh() as one_side, fresh() as other:
        assert told(one_side, True) == told(other, False)


def test_an_account_that_is_allowed_again_is_indexed_from_the_next_batch_on(database: Database) -> None:
    """By a writer that remembers that it was excluded, and all the events in between by whoever delivers them again."""
    stream = Stream()
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    writer = writer_for(database)
    forbid(database, ann)

    def write(*frames: bytes) -> list[int]:
        return [report.withheld for report in writer.write(changes_of(*frames), time.time())]

    unseen = [ann.commit(post("a", "unseen")), ann.commit(post("b", "unseen"))]
    assert write(*unseen, bob.commit(post("a", "bob's"))) == [2]
    assert one(database.url, "SELECT count(*) FROM bsky.actor") == 1
    assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", ann.did)
    assert rows(database.url, "SELECT did, reason FROM pipeline.backfill_queue") == [(ann.did, "allowed")]
    assert rows(database.url, "SELECT kind, did FROM pipeline.gap WHERE resolved_at IS NULL") == [
        ("repository", ann.did)
    ]
    assert rows(database.url, "SELECT did, queue FROM pipeline.identity WHERE queue = 'event'") == [(ann.did, "event")]
    assert one(database.url, "SELECT count(*) FROM bsky.actor") == 2, "its newest commit is known"
    spans = "SELECT chain_from, rev FROM pipeline.repo WHERE did = %s"
    assert rows(database.url, spans, ann.did) == [(None, ann.repository.rev)], "none is known to be applied"
    assert write(ann.commit(post("c", "seen"))) == [0]
    assert rows(database.url, spans, ann.did) == [(ann.repository.rev, ann.repository.rev)]
    assert rows(database.url, "SELECT text FROM bsky.post WHERE creator = %s", ann.did) == [("seen",)]
    assert write(*unseen) == [0]
    assert one(database.url, "SELECT count(*) FROM bsky.post WHERE creator = %s", ann.did) == 3
    assert one(database.url, 'SELECT "postsCount" FROM bsky.profile_agg WHERE did = %s', ann.did) == 3
