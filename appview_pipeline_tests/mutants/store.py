"""Defects in how batches are written: transactions, locks, sessions."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

STORE = (
    Mutant(
        name="the-cursor-in-a-transaction-of-its-own",
        file="appview_pipeline/store/apply.py",
        old="            write_report(cursor, batch.report)\n            if move is not None:",
        new=(
            "            write_report(cursor, batch.report)\n"
            "            connection.commit()\n"
            "            if move is not None:"
        ),
        promise="Rows, counters, notifications and the stream's cursor commit together.",
        documented="docs/architecture.md#guarantees",
        tests=(
            "store/test_write_path.py::test_of_two_writers_with_one_position_one_writes",
            "ingest/test_writer.py::test_of_two_consumers_one_fails_and_has_written_nothing",
        ),
    ),
    Mutant(
        name="another-place-of-the-cursor-is-no-error",
        file="appview_pipeline/store/bookkeeping.py",
        old="    if cursor.rowcount != 1:",
        new="    if cursor.rowcount > 1:",
        promise="A batch whose cursor is not where it began is not written.",
        documented="docs/architecture.md#guarantees",
        tests=("store/test_write_path.py::test_of_two_writers_with_one_position_one_writes",),
    ),
    Mutant(
        name="a-dry-run-that-commits",
        file="appview_pipeline/store/apply.py",
        old="        if dry_run:\n            connection.rollback()",
        new="        if dry_run:\n            connection.commit()",
        promise="Looking for the record that PostgreSQL refuses writes nothing.",
        documented="docs/architecture.md#applying-a-batch",
        tests=("ingest/test_writer.py::test_a_refused_row_is_found_and_its_neighbours_are_written",),
    ),
    Mutant(
        name="nobody-takes-the-cross-repository-lock",
        file="appview_pipeline/store/apply.py",
        old="    if batch.seen:\n        lock_cross_repository(cursor)",
        new="    if batch.seen:",
        promise="Of two writers one evaluates after the other has committed, so neither misses the other's rows.",
        documented="docs/architecture.md#applying-a-batch",
        tests=("properties/test_concurrent_writers.py::test_story",),
    ),
    Mutant(
        name="the-excluded-are-not-looked-for",
        file="appview_pipeline/store/exclusion.py",
        old="    refused = batch.content_of(excluded) if excluded else frozenset[str]()",
        new="    refused = frozenset[str]()",
        promise="A batch commits nothing of an account that is excluded, whatever it was built of.",
        documented="docs/privacy.md#what-happens",
        tests=("ingest/test_every_path_respects_the_opt_out.py::test_live",),
    ),
    Mutant(
        name="opt-outs-do-not-wait-for-batches",
        file="appview_pipeline/store/exclusion.py",
        old=(
            "        hold_exclusions(cursor)\n"
            '        cursor.execute(sections("apply/excluded.sql")["find"], {"dids": list(unlocked)})'
        ),
        new='        cursor.execute(sections("apply/excluded.sql")["find"], {"dids": list(unlocked)})',
        promise="Whoever opts out waits for batches that began before: after it nothing new is stored.",
        documented="docs/privacy.md#what-happens",
        tests=("ingest/test_opting_out.py::test_a_batch_under_way_ends_before_the_opt_out_does",),
    ),
    Mutant(
        name="a-stream-lock-that-is-not-held",
        file="appview_pipeline/store/session_lock.py",
        old='        cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(name),))',
        new='        cursor.execute("SELECT %s IS NOT NULL", (lock_key(name),))',
        promise="One consumer at a time reads a stream.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("store/test_write_path.py::test_the_streams_lock_is_held_by_one",),
    ),
    Mutant(
        name="a-lost-lock-is-not-noticed",
        file="appview_pipeline/store/session_lock.py",
        old="        if time.monotonic() - self._checked < backoff.SESSION_LOCK_CHECK_SECONDS:",
        new="        if True:",
        promise="A consumer whose lock is gone with its connection ends, since its place is free for another.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("store/test_write_path.py::test_the_streams_lock_is_waited_for_and_noticed_when_it_is_gone",),
    ),
    Mutant(
        name="two-layouts-at-once",
        file="appview_pipeline/store/stream_lock.py",
        old="            if not others:\n",
        new="            others = []\n            if not others:\n",
        promise="Consumers of two layouts never run at once.",
        documented="docs/scaling.md#another-n",
        tests=("test_shards.py::test_layouts_exclude_one_another_and_shards_do_not",),
    ),
    Mutant(
        name="copy-of-tabs-and-backslashes",
        file="appview_pipeline/store/staging.py",
        old="""            "\\\\" not in text
            and "\\0" not in text""",
        new="""            "\\0" not in text""",
        promise="COPY gives back what it was given, whatever a record holds.",
        documented="SECURITY.md#what-we-promise",
        tests=("store/test_staging.py::test_any_text_comes_back", "store/test_staging.py::test_any_row_comes_back"),
    ),
    Mutant(
        name="plans-for-ever",
        file="appview_pipeline/store/prepared.py",
        old="    if plans.events + events > MAX_EVENTS or time.monotonic() - plans.since > MAX_SECONDS:",
        new="    if False:",
        promise="Plans are kept for a minute or 50,000 events, for small and for large batches.",
        documented="docs/architecture.md#applying-a-batch",
        tests=("store/test_plans.py::test_plans_are_made_again_after_a_while",),
    ),
    Mutant(
        name="an-unfinished-index-stays",
        file="appview_pipeline/store/migrations/__init__.py",
        old="            if cursor.fetchone() is not None:",
        new="            if False:",
        promise="A migration that was killed goes on, and builds an index again that was left unfinished.",
        documented="docs/operations.md#upgrading",
        tests=(
            "store/test_migrating_filled_tables.py"
            "::test_readers_and_writers_go_on_beside_an_index_build_that_is_killed_and_repeated",
        ),
    ),
    Mutant(
        name="an-index-that-writers-wait-for",
        file="sql/schema/online/0024_labels.sql",
        old="CREATE INDEX CONCURRENTLY IF NOT EXISTS record_self_labels_idx",
        new="CREATE INDEX IF NOT EXISTS record_self_labels_idx",
        promise="A migration keeps nobody from a large table for longer than a change of the catalog takes.",
        documented="docs/operations.md#upgrading",
        tests=(
            "store/test_migrations_lock_briefly.py"
            "::test_statements_outside_of_the_transaction_may_be_repeated_and_lock_briefly",
        ),
    ),
    Mutant(
        name="a-constraint-that-everybody-waits-for",
        file="sql/schema/online/0024_labels.sql",
        old="'label', 'label-frame')) NOT VALID;",
        new="'label', 'label-frame'));",
        promise="A migration reads no rows of a large table while it keeps others from it.",
        documented="docs/operations.md#upgrading",
        tests=(
            "store/test_migrating_filled_tables.py"
            "::test_large_tables_are_neither_rewritten_nor_locked_while_rows_are_read",
        ),
    ),
    Mutant(
        name="a-backup-without-its-log",
        file="appview_pipeline/store/embedded/backup.py",
        old="            if _WAL_FILE.fullmatch(path.name) and first[1] <= path.name <= last_wal_file:",
        new="            if False:",
        promise="A backup has all that makes it consistent.",
        documented="docs/backup.md#the-embedded-database",
        tests=("store/embedded/test_backup.py::test_the_command",),
    ),
    Mutant(
        name="a-database-that-was-given-back-is-opened",
        file="appview_pipeline/store/leaving.py",
        old="        return bool(left)\n",
        new="        return bool(left) and False\n",
        promise="Nothing of the pipeline opens a database that was given back, until it is adopted.",
        documented="docs/serve.md#going-back",
        tests=("operations/test_leaving.py::test_nothing_of_ours_opens_the_database_afterwards",),
    ),
    Mutant(
        name="an-adoption-goes-on-with-other-options",
        file="appview_pipeline/store/adoption.py",
        old="        if options not in (Options(), stored) or",
        new="        if",
        promise="An adoption goes on with the options that it began with, and refuses others.",
        documented="docs/serve.md#what-it-does",
        tests=("store/test_adoption.py::test_it_goes_on_with_the_options_that_it_began_with",),
    ),
    Mutant(
        name="two-processes-move-one-range",
        file="sql/adopt/ranges.sql",
        old="AND after = %(after)s AND position = %(position)s AND NOT ended;",
        new="AND after = %(after)s;",
        promise="A range of an adoption moves only from where the process that moves it has found it.",
        documented="docs/serve.md#what-it-does",
        tests=("store/test_adoption_ranges.py::test_only_one_process_moves_a_range",),
    ),
    Mutant(
        name="an-account-is-in-two-ranges",
        file="sql/adopt/ranges.sql",
        old="  SELECT 'at://' || did || '/' AS uri FROM pipeline.repo\n",
        new="  SELECT 'at://' || did || '/app.bsky.feed.post/5' AS uri FROM pipeline.repo\n",
        promise="The ranges of an adoption cover all records, and none ends within an account.",
        documented="docs/serve.md#what-it-does",
        tests=("store/test_adoption_ranges.py::test_they_cover_all_and_divide_no_account",),
    ),
    Mutant(
        name="a-look-that-repairs-the-whole-chunk",
        file="appview_pipeline/store/repair_chunk.py",
        old="                own = [uri for (uri,) in cursor.fetchall()]\n",
        new="                cursor.fetchall()\n",
        promise="A look names the records that lack rows of our own tables, and no others are locked for it.",
        documented="docs/serve.md#what-it-does",
        tests=("ingest/test_rerun.py::test_what_only_our_own_tables_lack_is_named",),
    ),
    Mutant(
        name="a-reply-keeps-its-first-place",
        file="appview_pipeline/store/records.py",
        old="    if kept.any:",
        new="    if False:",
        promise="An author's reply that is edited and deleted in one batch keeps the place that it had last.",
        documented="docs/differences.md",
        tests=("store/test_op_threads.py::test_a_reply_that_was_edited_before_it_was_deleted_has_its_last_parent",),
    ),
)
