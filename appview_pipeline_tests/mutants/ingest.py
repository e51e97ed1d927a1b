"""Defects in what batches are made of: verification, retries, removals, the stream's position."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

INGEST = (
    Mutant(
        name="no-signature-is-checked",
        file="appview_pipeline/ingest/verification.py",
        old="            if verify_commit(key, content.block, content.sig):\n                return None",
        new="            if True:\n                return None",
        promise="A commit that is not signed with the account's key is not applied.",
        documented="docs/verification.md#levels",
        tests=("ingest/test_verification.py::test_signatures_that_do_not_fit",),
    ),
    Mutant(
        name="no-proof-is-checked",
        file="appview_pipeline/ingest/verification.py",
        old="                prove(event, content)\n",
        new="                pass\n",
        promise="Operations that are left out, made up or altered are noticed.",
        documented="docs/verification.md#levels",
        tests=("ingest/test_verification.py::test_operations_that_are_not_what_changed_in_the_tree",),
    ),
    Mutant(
        name="keys-are-remembered-after-events",
        file="appview_pipeline/ingest/verification.py",
        old="                self._keys.forget(event.did)",
        new="                pass",
        promise="A key is forgotten at once when an #identity event says that something has changed.",
        documented="docs/verification.md#keys",
        tests=("ingest/test_verification.py::test_keys_are_read_once_for_a_batch_and_forgotten_in_time",),
    ),
    Mutant(
        name="an-old-key-refuses",
        file="appview_pipeline/ingest/verification.py",
        old="            self._keys.read_again(self._unfit)\n",
        new="",
        promise="Before a signature counts as bad the key is read from the database once more.",
        documented="docs/verification.md#what-becomes-of-a-commit-that-fails",
        tests=("ingest/test_verification.py::test_a_key_that_has_changed_in_the_database",),
    ),
    Mutant(
        name="bad-signatures-of-applied-commits-are-forgotten",
        file="appview_pipeline/ingest/signatures.py",
        old="    bad = [it for it in checked if not _fits(it)]",
        new="    bad = [it for it in checked if False]",
        promise="A commit that was applied before its key was known is checked once the key has come.",
        documented="docs/verification.md#keys",
        tests=("ingest/test_signatures.py::test_an_unknown_key_that_does_not_fit",),
    ),
    Mutant(
        name="events-sent-twice-move-the-cursor-back",
        file="appview_pipeline/ingest/writer.py",
        old="        if change.seq is not None and change.seq > reached and not change.is_doubtful:",
        new="        if change.seq is not None and not change.is_doubtful:",
        promise="Events that a relay sends twice do not move the cursor back.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("store/test_write_path.py::test_events_sent_twice_do_not_move_the_cursor_back",),
    ),
    Mutant(
        name="made-up-numbers-move-the-cursor",
        file="appview_pipeline/ingest/writer.py",
        old="change.seq > reached and not change.is_doubtful:",
        new="change.seq > reached:",
        promise="One event with an absurd sequence number does not move the cursor past all others.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=("ingest/live/test_consumer.py::test_an_absurd_number_costs_nothing",),
    ),
    Mutant(
        name="gaps-of-the-stream-go-unnoticed",
        file="appview_pipeline/ingest/live/sequence_numbers.py",
        old="""            self._note(seen, run.begins or "sequence", before, run.first)

    def _drop""",
        new="""            pass

    def _drop""",
        promise="A jump of sequence numbers beyond what a relay may leave out is a gap that somebody can see.",
        documented="docs/gaps.md#kinds-of-gaps",
        tests=(
            "ingest/live/test_sequence_numbers.py::test_more_is_a_gap_and_the_cursor_follows_once_it_is_confirmed",
            "ingest/live/test_sequence_numbers.py::test_a_connection_that_begins_elsewhere_is_believed_after_a_moment",
        ),
    ),
    Mutant(
        name="a-refused-record-costs-its-neighbours",
        file="appview_pipeline/ingest/offenders.py",
        old=(
            "                kept.append(write)\n"
            "            else:\n"
            "                letters.append(_letter(write, objection))\n"
            "        return _without(change, kept, letters) if letters else None"
        ),
        new=(
            "                pass\n"
            "            else:\n"
            "                letters.append(_letter(write, objection))\n"
            "        return _without(change, kept, letters) if letters else None"
        ),
        promise="Where PostgreSQL refuses a record, its neighbours in the same commit are indexed.",
        documented="docs/architecture.md#guarantees",
        tests=("ingest/test_writer.py::test_a_refused_row_is_found_and_its_neighbours_are_written",),
    ),
    Mutant(
        name="a-slow-database-gives-changes-up",
        file="appview_pipeline/ingest/offenders.py",
        old="        return time.monotonic() - began < QUICK_SHARE * self._transactions.statement_seconds",
        new="        return True",
        promise="No change is given up while PostgreSQL is slow at everything.",
        documented="docs/architecture.md#applying-a-batch",
        tests=("ingest/test_writer.py::test_nothing_is_given_up_while_postgresql_is_slow_at_everything",),
    ),
    Mutant(
        name="waiting-for-a-lock-counts-as-slow",
        file="appview_pipeline/ingest/transactions.py",
        old="                if isinstance(error, Cancelled):",
        new="                if isinstance(error, Cancelled | LockWait):",
        promise="A batch that only waits for somebody else's lock is neither halved nor given up.",
        documented="docs/architecture.md#applying-a-batch",
        tests=("ingest/test_writer.py::test_who_holds_a_lock_turns_nothing_into_a_dead_letter",),
    ),
    Mutant(
        name="a-removal-that-was-taken-back-goes-on",
        file="appview_pipeline/ingest/removal.py",
        old="            if not hold_removal(connection, self.removal):\n                raise _NotEmpty",
        new="            hold_removal(connection, self.removal)",
        promise="Nothing is removed of an account after the event that takes its removal back.",
        documented="docs/accounts.md#removal",
        tests=(
            "ingest/test_removal.py::test_what_comes_with_the_return_is_not_taken_for_left_over",
            "ingest/test_removal.py::test_an_account_that_returns_meanwhile_loses_nothing_more",
        ),
    ),
    Mutant(
        name="a-third-batch-is-decoded",
        file="appview_pipeline/ingest/pipeline.py",
        old="                applying.settle()\n                before_apply()",
        new="                before_apply()",
        promise="Batches are applied in order and one at a time.",
        documented="docs/architecture.md#where-a-batch-comes-from",
        tests=(
            "ingest/test_pipeline.py::test_batches_are_applied_in_order_and_reported",
            "ingest/test_pipeline.py::test_the_next_batch_is_decoded_while_one_is_applied_and_no_third_is_taken",
        ),
    ),
    Mutant(
        name="an-adoption-keeps-few-of-the-refused",
        file="appview_pipeline/ingest/adopted_records.py",
        old="        self._writer = Writer(database, unlimited, SOURCE)\n",
        new="        self._writer = Writer(database, settings, SOURCE)\n",
        promise="All records that an adoption refuses are kept as dead letters, however many.",
        documented="docs/serve.md#what-it-does",
        tests=("operations/test_adopting.py::test_all_that_is_refused_is_kept",),
    ),
)
