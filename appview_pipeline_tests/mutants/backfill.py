"""Defects in fetching repositories and records, and in comparing them with the index."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

BACKFILL = (
    Mutant(
        name="an-export-takes-newer-records-back",
        file="appview_pipeline/backfill/compare.py",
        old="        elif known.rev is not None and known.rev > rev:",
        new="        elif False:",
        promise="What the index has of a later rev than the export's is left alone.",
        documented="docs/backfill.md#one-repository",
        tests=("backfill/test_compare.py::test_what_the_index_has_of_a_later_rev_is_left_alone",),
    ),
    Mutant(
        name="what-an-export-lacks-stays",
        file="appview_pipeline/backfill/compare.py",
        old="        if state is not None and state.path == path:\n            yield path, cid, state",
        new=(
            "        if state is not None and state.path == path:\n"
            "            yield path, cid, state\n"
            "            state = next(states, None)"
        ),
        promise="Each path of the export and of the index is compared, none is passed over.",
        documented="docs/backfill.md#one-repository",
        tests=("backfill/test_compare.py::test_any_two_sequences_are_merged_by_path",),
    ),
    Mutant(
        name="the-last-days-delete-what-is-older",
        file="appview_pipeline/backfill/exported_changes.py",
        old="            if oldest is None:\n                counts.deletes += 1",
        new="            if True:\n                counts.deletes += 1",
        promise="A backfill of the last days deletes nothing.",
        documented="docs/backfill.md#one-repository",
        tests=(
            "backfill/test_exported_changes.py::test_of_the_last_days_only_their_records_are_taken_and_nothing_is_deleted",
        ),
    ),
    Mutant(
        name="old-records-of-an-export-notify",
        file="appview_pipeline/backfill/exported_changes.py",
        old="        return own_micros < self._notify_from",
        new="        return False",
        promise="Records of an export that are older than `APPVIEW_NOTIFY_WINDOW` notify nobody.",
        documented="docs/backfill.md#one-repository",
        tests=(
            "backfill/test_exported_changes.py::test_records_that_are_older_than_the_window_are_quiet_whatever_they_say",
        ),
    ),
    Mutant(
        name="a-guessed-rev-of-the-future",
        file="appview_pipeline/backfill/exported_changes.py",
        old="            return rkey if is_tid(rkey) and self._floor < rkey <= self._rev else self._rev",
        new="            return rkey if is_tid(rkey) and self._floor < rkey else self._rev",
        promise="The rev that a record's key stands in for is never later than the export's.",
        documented="docs/backfill.md#one-repository",
        tests=("backfill/test_exported_changes.py::test_a_record_that_nothing_is_known_of_has_the_rev_of_its_key",),
    ),
    Mutant(
        name="damaged-blocks-are-passed-over",
        file="appview_pipeline/backfill/exported_changes.py",
        old="    if first_damage is not None:",
        new="    if False:",
        promise="An export that lacks the block of a record is not complete.",
        documented="docs/fetching.md#repositories",
        tests=(
            "backfill/test_exported_changes.py::test_without_the_block_of_a_record_the_others_are_yielded_and_the_export_is_not_complete",
        ),
    ),
    Mutant(
        name="exports-that-nobody-signed",
        file="appview_pipeline/backfill/fetch.py",
        old=(
            "            if not verify_commit(key, export.signed, export.sig):\n"
            "                raise _bad_signature(host)\n"
            "            if newer_than"
        ),
        new="            if newer_than",
        promise="A repository counts only where its commit is signed with the account's key, whoever sent it.",
        documented="docs/fetching.md#repositories",
        tests=("backfill/test_fetch.py::test_a_bad_signature_counts_after_one_fresh_resolution",),
    ),
    Mutant(
        name="records-that-nobody-signed",
        file="appview_pipeline/backfill/fetch.py",
        old=(
            "                if not verify_commit(key, export.signed, export.sig):\n"
            "                    raise _bad_signature(host)\n"
            "                cid"
        ),
        new="                cid",
        promise="A single record counts only where a signed commit proves it.",
        documented="docs/on-demand.md#how-a-record-is-fetched",
        tests=("backfill/test_fetch.py::test_a_bad_signature_counts_after_one_fresh_resolution",),
    ),
    Mutant(
        name="an-older-export-counts",
        file="appview_pipeline/backfill/fetch.py",
        old="            if newer_than is not None and export.rev < newer_than:",
        new="            if False:",
        promise="An old PDS that still has the repository, as it was, does not take it back.",
        documented="docs/fetching.md#repositories",
        tests=("backfill/test_fetch.py::test_an_old_pds_that_still_has_the_repository",),
    ),
    Mutant(
        name="one-host-takes-all-places",
        file="appview_pipeline/backfill/lanes.py",
        old="        if lane.parked_until > now or lane.running >= self._limit(host, lane):",
        new="        if lane.parked_until > now:",
        promise="A host has a limit of fetches at a time.",
        documented="docs/backfill.md#hosts",
        tests=("backfill/test_lanes.py::test_a_host_has_a_limit",),
    ),
    Mutant(
        name="hosts-that-never-delivered-take-all",
        file="appview_pipeline/backfill/lanes.py",
        old="        if not lane.is_proven and self._unproven >= self._unproven_fetches:",
        new="        if False:",
        promise="Hosts that have not delivered have half of all places at most.",
        documented="docs/backfill.md#hosts",
        tests=("backfill/test_lanes.py::test_hosts_that_have_not_delivered_have_one_each_and_half_of_all",),
    ),
    Mutant(
        name="a-gap-closes-before-its-survey-has-ended",
        file="appview_pipeline/backfill/survey.py",
        old="            covered = [gap for gap in gaps if gap.detected_at <= reading.began_at - LATE_COMMIT]",
        new="            covered = list(gaps)",
        promise="A gap that is found during a survey needs another one.",
        documented="docs/backfill.md#after-an-outage",
        tests=("backfill/test_survey.py::test_a_gap_that_is_found_while_a_survey_is_interrupted_needs_another",),
    ),
    Mutant(
        name="a-cut-off-list-closes-gaps",
        file="appview_pipeline/backfill/survey.py",
        old="            if cut_off is not None:",
        new="            if False:",
        promise="A list of the relay that is cut off leaves the gaps open.",
        documented="docs/backfill.md#after-an-outage",
        tests=("backfill/test_survey.py::test_a_list_that_is_cut_off_leaves_the_gap_open",),
    ),
)
