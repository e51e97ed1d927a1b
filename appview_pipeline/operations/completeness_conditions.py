"""Conditions of completeness: missing records and repositories are fetched, gaps close, hosts answer."""

from __future__ import annotations

from appview_pipeline.operations.verdict import Condition, Verdict
from appview_pipeline.operations.words import at_least, duration, share
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import MAX_COUNTED, HealthReport

FETCHED_RECORDS = "fetched_records"
REPOSITORIES = "repositories"
FEW_ANSWERS = 20
FEW_REPOSITORIES = 20
FEW_HOSTS = 20
"""Fewer of these say nothing about a share."""


def _fetching(report: HealthReport, settings: Settings) -> Verdict:
    last = report.fetch_report
    if last is None or last.age_seconds > settings.silence_warning_seconds:
        since = "has reported nothing yet" if last is None else f"has reported nothing for {duration(last.age_seconds)}"
        return FETCHING.verdict(False, f"The fetch process {since}: the ticks of the fetch sensor say why.")
    return FETCHING.verdict(True, f"The fetch process last reported {duration(last.age_seconds)} ago.")


FETCHING = Condition(
    name="fetching",
    asset=FETCHED_RECORDS,
    severity="error",
    setting="APPVIEW_SILENCE_WARNING_SECONDS",
    description=(
        "The fetch process runs, and reaches the database. Where it does not, the result says what to do. The fetch "
        "sensor evaluates it every minute, and at once when something changes; others see only whether the process has "
        "reported lately."
    ),
    judge=_fetching,
)


def _fetches_succeed(report: HealthReport, settings: Settings) -> Verdict:
    outcomes = report.outcomes
    rate = outcomes.success_rate
    numbers: dict[str, float] = {"asked": outcomes.asked, "answered": outcomes.answered}
    if rate is not None:
        numbers["success_rate"] = rate
    wanted = settings.fetch_warning_share
    if settings.skip_pds_fetching:
        words = "APPVIEW_SKIP_PDS_FETCHING is on: no missing records are fetched."
    elif rate is None:
        words = "No host answered in the last hour." if outcomes.asked else "No record was asked for in the last hour."
    else:
        words = (
            f"Of {outcomes.answered:,} answers in the last hour {share(rate)} settled whether there is the record "
            f"(limit {share(wanted)}): {outcomes.found + outcomes.refused:,} had it, {outcomes.absent:,} had none, "
            f"{outcomes.invalid:,} proved nothing. {outcomes.unreachable:,} attempts were not answered."
        )
    few = outcomes.answered < FEW_ANSWERS
    return FETCHES_SUCCEED.verdict(settings.skip_pds_fetching or rate is None or few or rate >= wanted, words, numbers)


FETCHES_SUCCEED = Condition(
    name="fetches_succeed",
    asset=FETCHED_RECORDS,
    severity="warn",
    setting="APPVIEW_FETCH_WARNING_SHARE",
    description=(
        "Nearly all answers of the last hour settle whether there is the missing record, and have it if there is."
    ),
    judge=_fetches_succeed,
)


def _pending_is_fetched(report: HealthReport, settings: Settings) -> Verdict:
    pending = report.pending
    age = pending.oldest_due_seconds
    limit = settings.pending_warning_seconds
    numbers = {"pending": pending.rows, "due": pending.due, "oldest_due_seconds": age or 0.0}
    if settings.skip_pds_fetching:
        words = "APPVIEW_SKIP_PDS_FETCHING is on: what is missing is not fetched."
        return PENDING_IS_FETCHED.verdict(True, words, numbers)
    words = f"About {pending.rows:,} rows are pending; "
    if age is None:
        words += "none waits to be fetched now."
    else:
        words += (
            f"{at_least(pending.due, MAX_COUNTED)} may be fetched now, the first for {duration(age)} "
            f"(limit {duration(limit)})."
        )
    return PENDING_IS_FETCHED.verdict((age or 0.0) <= limit, words, numbers)


PENDING_IS_FETCHED = Condition(
    name="pending_is_fetched",
    asset=FETCHED_RECORDS,
    severity="warn",
    setting="APPVIEW_PENDING_WARNING_SECONDS",
    description="No missing record that may be fetched waits long for it.",
    judge=_pending_is_fetched,
)


def _gaps_close(report: HealthReport, settings: Settings) -> Verdict:
    gaps = report.open_gaps
    numbers: dict[str, float] = {"open_gaps": gaps.count, "workable_gaps": gaps.workable}
    oldest = gaps.oldest_workable_seconds
    limit = settings.gap_warning_seconds
    if oldest is not None:
        numbers["oldest_gap_seconds"] = oldest
    if not gaps.count:
        words = "No gap is open: nothing is known to be missing."
    elif oldest is None:
        words = "No gap is open about which anything can be done now."
    else:
        words = (
            f"Open gaps: {gaps.workable:,}, the oldest for {duration(oldest)} (limit {duration(limit)}). The job "
            "close_gaps closes them."
        )
    if others := gaps.count - gaps.workable:
        words += (
            f" Others, of accounts that are not active or of repositories that are given up for now: {others:,}; "
            "`pipeline.repo.sync_reason` says why."
        )
    return GAPS_CLOSE.verdict(oldest is None or oldest <= limit, words, numbers)


GAPS_CLOSE = Condition(
    name="gaps_close",
    asset=REPOSITORIES,
    severity="warn",
    setting="APPVIEW_GAP_WARNING_SECONDS",
    description="No gap about which something can be done is open for long.",
    judge=_gaps_close,
)


def _repositories_complete(report: HealthReport, settings: Settings) -> Verdict:
    repositories = report.repositories
    part = repositories.incomplete / repositories.total if repositories.total else 0.0
    limit = settings.incomplete_warning_share
    states = ", ".join(
        f"{state} {repositories.by_state[state]:,}"
        for state in ("desynchronized", "resyncing", "error")
        if repositories.by_state.get(state)
    )
    words = (
        f"Of {repositories.total:,} repositories {repositories.incomplete:,} are not complete"
        f"{f' ({states})' if states else ''}: {share(part)} (limit {share(limit)})."
    )
    numbers = {"repositories": repositories.total, "incomplete": repositories.incomplete, "incomplete_share": part}
    few = repositories.incomplete < FEW_REPOSITORIES
    return REPOSITORIES_COMPLETE.verdict(few or part <= limit, words, numbers)


REPOSITORIES_COMPLETE = Condition(
    name="repositories_complete",
    asset=REPOSITORIES,
    severity="warn",
    setting="APPVIEW_INCOMPLETE_WARNING_SHARE",
    description="Few repositories are incomplete: desynchronized, resyncing or in error.",
    judge=_repositories_complete,
)


def _repositories_are_fetched(report: HealthReport, settings: Settings) -> Verdict:
    queue = report.queue
    urgent, age = queue.state.urgent, queue.oldest_urgent_seconds
    limit = settings.repository_warning_seconds
    words = f"{at_least(urgent, MAX_COUNTED)} repositories are incomplete or were asked for, and wait in the queue; "
    if age is None:
        words += "none of them may be fetched now."
    else:
        words += f"the first may be fetched since {duration(age)} (limit {duration(limit)})."
    numbers = {
        "urgent": urgent,
        "oldest_urgent_seconds": age or 0.0,
        "fetching": queue.state.fetching,
        "given_up": queue.state.parked,
    }
    return REPOSITORIES_ARE_FETCHED.verdict((age or 0.0) <= limit, words, numbers)


REPOSITORIES_ARE_FETCHED = Condition(
    name="repositories_are_fetched",
    asset=REPOSITORIES,
    severity="warn",
    setting="APPVIEW_REPOSITORY_WARNING_SECONDS",
    description="No repository that something is missing of, and that may be fetched, waits long for it.",
    judge=_repositories_are_fetched,
)


def _backfill_moves(report: HealthReport, settings: Settings) -> Verdict:
    done, waits = report.backfill, report.queue.oldest_other_seconds
    numbers = {
        "repositories": done.repositories,
        "records": done.records,
        "failed": done.failed,
        "waiting_seconds": waits or 0.0,
    }
    fetched = (
        f"{done.repositories:,} repositories with {done.records:,} records were fetched in the last "
        f"{duration(done.seconds)}"
    )
    if settings.backfill_days == 0:
        words = f"APPVIEW_BACKFILL_DAYS=0: nothing is backfilled. {fetched} to close gaps."
        return BACKFILL_MOVES.verdict(True, words, numbers)
    if waits is None:
        return BACKFILL_MOVES.verdict(True, f"Nothing waits that may be fetched now. {fetched}.", numbers)
    words = f"{fetched}; others may be fetched since {duration(waits)} (limit {duration(done.seconds)} without any)."
    return BACKFILL_MOVES.verdict(done.repositories > 0 or waits <= done.seconds, words, numbers)


BACKFILL_MOVES = Condition(
    name="backfill_moves",
    asset=REPOSITORIES,
    severity="warn",
    setting="APPVIEW_BACKFILL_WARNING_SECONDS",
    description="While repositories wait that may be fetched, some are finished.",
    judge=_backfill_moves,
)


def _hosts_reachable(report: HealthReport, settings: Settings) -> Verdict:
    hosts = report.hosts
    limit = settings.hosts_warning_share
    by_accounts = hosts.accounts > 0
    part = hosts.paused_share if by_accounts else (hosts.paused / hosts.hosts if hosts.hosts else 0.0)
    numbers = {
        "hosts": hosts.hosts,
        "hosts_left_alone": hosts.paused,
        "accounts_left_alone": hosts.paused_accounts,
        "share_left_alone": part,
    }
    words = f"Of {hosts.hosts:,} hosts of repositories {hosts.paused:,} are left alone now"
    words += f", with {share(part)} of the accounts (limit {share(limit)})." if by_accounts else f" ({share(part)})."
    if hosts.largest:
        named = "; ".join(f"{host}: {reason}" if reason else host for host, reason in hosts.largest.items())
        words += f" The largest: {named}."
    few = not by_accounts and hosts.hosts < FEW_HOSTS
    return HOSTS_REACHABLE.verdict(few or part <= limit, words, numbers)


HOSTS_REACHABLE = Condition(
    name="hosts_reachable",
    asset=REPOSITORIES,
    severity="warn",
    setting="APPVIEW_HOSTS_WARNING_SHARE",
    description=(
        "The hosts that are left alone, because they fail (an open circuit breaker) or asked for a pause, have few of "
        "the network's accounts."
    ),
    judge=_hosts_reachable,
)

CONDITIONS = (
    FETCHING,
    FETCHES_SUCCEED,
    PENDING_IS_FETCHED,
    GAPS_CLOSE,
    REPOSITORIES_COMPLETE,
    REPOSITORIES_ARE_FETCHED,
    BACKFILL_MOVES,
    HOSTS_REACHABLE,
)
