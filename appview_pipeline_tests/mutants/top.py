"""Defects in the modules at the top of the product: shards, settings, retries, logs."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

TOP = (
    Mutant(
        name="a-shard-that-starts-too-late",
        file="appview_pipeline/shards.py",
        old="    return min(covered)",
        new="    return max(covered)",
        promise="Where the number of shards changes, the part that is furthest behind decides where one starts.",
        documented="docs/scaling.md#another-n",
        tests=("test_shards.py::test_where_a_shard_starts",),
    ),
    Mutant(
        name="another-hash-of-repositories",
        file="appview_pipeline/shards.py",
        old='    return int.from_bytes(sha256(did).digest()[:4], "big")',
        new='    return int.from_bytes(sha256(did).digest()[:4], "little")',
        promise="A repository's number never changes: stored cursors depend on it.",
        documented="docs/scaling.md#the-hash",
        tests=("test_shards.py::test_a_repositorys_number_never_changes",),
    ),
    Mutant(
        name="settings-without-limits",
        file="appview_pipeline/settings.py",
        old=(
            "        value = int(text)\n"
            "        if not low <= value <= high:\n"
            '            raise ValueError(f"must be between {low:,} and {high:,}")'
        ),
        new=(
            "        value = int(text)\n"
            "        if False:\n"
            '            raise ValueError(f"must be between {low:,} and {high:,}")'
        ),
        promise="A setting that makes no sense is one sentence that names the variable.",
        documented="docs/settings.md",
        tests=("test_settings.py::test_a_mistake_is_one_sentence_that_names_the_variable",),
    ),
    Mutant(
        name="retries-that-never-slow-down",
        file="appview_pipeline/backoff.py",
        old="        ceiling = min(self.longest, self.first * 2 ** min(self.failures, 30))",
        new="        ceiling = self.first",
        promise="What keeps failing is tried less and less often, up to a limit.",
        documented="docs/architecture.md#guarantees",
        tests=(
            "test_backoff.py::test_backoff_grows_with_jitter_up_to_its_limit_and_starts_again_after_a_healthy_connection",
        ),
    ),
    Mutant(
        name="passwords-in-the-log",
        file="appview_pipeline/logs.py",
        old='        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()',
        new="        return value",
        promise="The password in a URL appears in no log line.",
        documented="SECURITY.md#what-we-promise",
        tests=("test_logs.py::test_the_start_line_shows_what_matters_and_no_secret",),
    ),
    Mutant(
        name="upstream-writes-log-lines",
        file="appview_pipeline/logs.py",
        old="        message = _one_line(record.getMessage())",
        new="        message = record.getMessage()",
        promise="Text of upstream can't forge a line of the log.",
        documented="SECURITY.md#what-we-promise",
        tests=("test_logs.py::test_upstream_text_can_not_forge_a_line",),
    ),
)
