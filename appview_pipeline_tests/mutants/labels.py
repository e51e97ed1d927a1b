"""Defects in reading labelers, in making labels and in giving them out."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

LABELS = (
    Mutant(
        name="labels-of-other-sources",
        file="appview_pipeline/labels/verification.py",
        old="    if label.src != labeler:",
        new="    if False:",
        promise="A labeler's stream brings labels of that labeler only.",
        documented="docs/labels.md#what-is-verified",
        tests=("labels/test_verification.py::test_its_own_with_its_key",),
    ),
    Mutant(
        name="labels-without-a-signature",
        file="appview_pipeline/labels/verification.py",
        old="    if label.sig is None:\n        raise InvalidLabel(UNSIGNED",
        new="    if False:\n        raise InvalidLabel(UNSIGNED",
        promise="A label without a signature is taken only of labelers that `APPVIEW_UNSIGNED_LABELERS` names.",
        documented="docs/labels.md#what-is-verified",
        tests=(
            "labels/test_verification.py::test_unsigned_ones_where_they_are_allowed",
            "labels/test_bad_input.py::test_what_is_wrong_is_a_dead_letter",
        ),
    ),
    Mutant(
        name="labels-of-any-key",
        file="appview_pipeline/labels/verification.py",
        old=(
            "        verified = verify_label(key, label, value) if key is not None else None\n"
            "        if verified is not None:\n"
            "            return verified\n"
            "        if self._resolved"
        ),
        new=(
            "        verified = verify_label(key, label, value) if key is not None else None\n"
            "        if verified is not None or key is not None:\n"
            "            return verified or label\n"
            "        if self._resolved"
        ),
        promise="Every label's signature is verified by the key in the labeler's DID document.",
        documented="docs/labels.md#what-is-verified",
        tests=("labels/test_verification.py::test_a_key_is_in_doubt_once_in_some_minutes",),
    ),
    Mutant(
        name="rejected-while-the-key-is-in-doubt",
        file="appview_pipeline/labels/verification.py",
        old="            raise KeyInDoubt(did)",
        new="            pass",
        promise="A label that does not fit the key is rejected only after the document was resolved once more.",
        documented="docs/labels.md#what-is-verified",
        tests=("labels/test_verification.py::test_a_key_is_in_doubt_once_in_some_minutes",),
    ),
    Mutant(
        name="a-flood-of-bad-labels",
        file="appview_pipeline/labels/stream.py",
        old="            and self.rejected > backoff.LABELER_REJECTED_SHARE * total",
        new="            and False",
        promise="A labeler of which nearly all is rejected is parked.",
        documented="docs/labels.md#when-a-labeler-is-parked",
        tests=("labels/test_stream.py::test_parked_where_nearly_all_is_rejected",),
    ),
    Mutant(
        name="frames-before-their-gap",
        file="appview_pipeline/labels/stream.py",
        old="        if self.outdated is not None:\n            return []",
        new="",
        promise="That a labeler has forgotten something is noted before what follows is applied.",
        documented="docs/labels.md#what-a-labeler-has-forgotten",
        tests=("labels/test_stream.py::test_a_gap_is_noted_before_what_follows_it",),
    ),
    Mutant(
        name="parked-before-what-came-is-applied",
        file="appview_pipeline/labels/stream.py",
        old="        if not (self.waiting or status.buffered_frames):",
        new="        if True:",
        promise="What a labeler sent before it is parked is applied first.",
        documented="docs/labels.md#when-a-labeler-is-parked",
        tests=("labels/test_stream.py::test_what_came_before_is_applied_before_it_is_parked",),
    ),
    Mutant(
        name="labels-made-here-are-not-later",
        file="appview_pipeline/labels/service.py",
        old="        millis = max(now, said.newest(it) // 1_000 + 1)",
        new="        millis = now",
        promise="A label that is made here is later than what was said before of the same subject.",
        documented="docs/labels.md#labels-made-here",
        tests=("labels/test_service.py::test_what_is_said_last_counts",),
    ),
    Mutant(
        name="said-again-and-again",
        file="appview_pipeline/labels/service.py",
        old="        if not force and said.is_so(it):",
        new="        if False:",
        promise="What is so already is not said again, so an interrupted run can be repeated.",
        documented="docs/labels.md#labels-made-here",
        tests=("labels/test_service.py::test_what_is_so_already_is_not_said_again_unless_forced",),
    ),
    Mutant(
        name="one-version-is-negated",
        file="appview_pipeline/labels/service.py",
        old="        return [cid or None for cid in sorted(self._values[it.value].in_effect)] or [None]",
        new="        return [None]",
        promise="A label that is taken back gets a negation for each of its versions.",
        documented="docs/labels.md#labels-made-here",
        tests=("labels/test_service.py::test_each_version_with_a_label_gets_a_negation",),
    ),
    Mutant(
        name="labels-made-here-are-not-signed",
        file="appview_pipeline/labels/service.py",
        old="    if key is not None:\n        return sign_label",
        new="    if False:\n        return sign_label",
        promise="Labels that are made here are signed with `APPVIEW_LABELER_KEY`.",
        documented="docs/labels.md#labels-made-here",
        tests=("labels/test_service.py::test_a_label_is_made_signed_and_taken_back",),
    ),
    Mutant(
        name="clients-without-a-limit",
        file="appview_pipeline/labels/label_streams.py",
        old="            if self._clients > self._limit:",
        new="            if False:",
        promise="The server of labels has a limit of clients.",
        documented="docs/serving-labels.md#the-stream",
        tests=("labels/test_serving.py::test_there_is_a_limit_of_clients",),
    ),
    Mutant(
        name="old-cursors-are-not-told",
        file="appview_pipeline/labels/label_streams.py",
        old="        if is_outdated:\n            message",
        new="        if False:\n            message",
        promise="A client whose cursor is outdated is told that something is missing.",
        documented="docs/serving-labels.md#the-stream",
        tests=("labels/test_serving.py::test_cursors",),
    ),
)
