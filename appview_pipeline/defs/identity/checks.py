"""The checks on resolution: does its process work, does it keep up, do the servers that it needs answer.

The identity sensor evaluates them as it goes; a person can run them from the UI.
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.tables.groups import ACTORS as GROUP
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.identity_reports import LastReport, last_report
from appview_pipeline.store.upstreams import LeftAlone, StoredUpstream, left_alone, list_upstreams

ACTORS = dg.AssetKey(GROUP.key)
RESOLVING = "resolving"
RESOLUTION_KEEPS_UP = "resolution_keeps_up"
UPSTREAMS_REACHABLE = "upstreams_reachable"

# Beyond these the checks warn.
AGE_WARNING_SECONDS = 300.0
SILENCE_WARNING_SECONDS = 180.0
NAMED_UPSTREAMS = 3


def resolving_result(trouble: str | None) -> dg.AssetCheckResult:
    """Whether the identity process does its work. `trouble`: what keeps it from it, and what to do about that."""
    return dg.AssetCheckResult(
        passed=trouble is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=trouble or "The identity process runs, and reaches the database.",
        check_name=RESOLVING,
        asset_key=ACTORS,
    )


def keeps_up_result(last: LastReport | None) -> dg.AssetCheckResult:
    """Whether new accounts and events are resolved soon after they come."""
    if last is None:
        words, passed, metadata = "The identity process has reported nothing yet.", False, {}
    else:
        age = last.oldest_seconds or 0.0
        metadata = {"queue_length": last.queued, "queue_age_seconds": round(age, 1)}
        passed = age <= AGE_WARNING_SECONDS and last.age_seconds <= SILENCE_WARNING_SECONDS
        first = "no new one waits for a slot" if last.oldest_seconds is None else f"the first new one for {age:,.0f} s"
        words = f"{last.queued:,} accounts wait to be resolved, retries included; {first}."
        if last.age_seconds > SILENCE_WARNING_SECONDS:
            words = f"The identity process last reported {last.age_seconds:,.0f} s ago; then {words}"
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
        check_name=RESOLUTION_KEEPS_UP,
        asset_key=ACTORS,
    )


def reachable_result(
    alone: LeftAlone, upstreams: Sequence[StoredUpstream], plc_url: str, now: float
) -> dg.AssetCheckResult:
    """Whether the PLC directory is asked. Other servers are named: each stands for its own accounts only."""
    silent = [one for one in upstreams if one.breaker != "closed" or (one.parked_until or 0.0) > now]
    named = {one.host: one for one in silent}
    directory = named.pop(_host(plc_url), None)
    words = "The PLC directory is asked."
    if directory is not None:
        words = f"The PLC directory {_in_words(directory, now)}. Accounts wait for it; nothing is lost."
    others = list(named.values())
    if others:
        listed = "; ".join(f"{one.host} {_in_words(one, now)}" for one in others[:NAMED_UPSTREAMS])
        more = alone.open + alone.parked - min(len(others), NAMED_UPSTREAMS) - (directory is not None)
        words += f" Other servers that are left alone: {listed}" + (f", and about {more:,} more." if more > 0 else ".")
    return dg.AssetCheckResult(
        passed=directory is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata={"breakers_open": alone.open, "parked": alone.parked},
        check_name=UPSTREAMS_REACHABLE,
        asset_key=ACTORS,
    )


def _host(url: str) -> str:
    """The host of a URL as `pipeline.upstream` has it: with the port where it is not the usual one."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    return host if parts.port in (None, usual) else f"{host}:{parts.port}"


def _in_words(upstream: StoredUpstream, now: float) -> str:
    why = f" ({upstream.reason})" if upstream.reason else ""
    if (upstream.parked_until or 0.0) > now:
        return f"asked to be left alone for another {(upstream.parked_until or now) - now:,.0f} s{why}"
    return f"failed {upstream.failures:,} times in a row and is left alone for a while{why}"


@dg.asset_check(
    asset=ACTORS,
    name=RESOLVING,
    description=(
        "The identity process runs, and reaches the database. Where it does not, the result says what to do. The "
        "identity sensor evaluates it every minute, and at once when something changes; run by hand it sees only "
        "whether the process has reported lately."
    ),
)
def resolving(index: IndexDatabase) -> dg.AssetCheckResult:
    """Whether reports come: a run can't see the process, which is a child of the code server."""
    try:
        with index.open().connect("reader") as connection:
            last = last_report(connection)
    except OperatorError as error:
        return resolving_result(str(error))
    if last is None or last.age_seconds > SILENCE_WARNING_SECONDS:
        since = "has reported nothing yet" if last is None else f"has reported nothing for {last.age_seconds:,.0f} s"
        return resolving_result(f"The identity process {since}: the ticks of the identity sensor say why.")
    return resolving_result(None)


@dg.asset_check(
    asset=ACTORS,
    name=RESOLUTION_KEEPS_UP,
    description=f"No new account or event has waited longer than {AGE_WARNING_SECONDS:.0f} s to be resolved.",
)
def resolution_keeps_up(index: IndexDatabase) -> dg.AssetCheckResult:
    """The last report of the identity process."""
    with index.open().connect("reader") as connection:
        return keeps_up_result(last_report(connection))


@dg.asset_check(
    asset=ACTORS,
    name=UPSTREAMS_REACHABLE,
    description="The PLC directory answers, and has not asked to be left alone. The result names other such servers.",
)
def upstreams_reachable(index: IndexDatabase) -> dg.AssetCheckResult:
    """What `pipeline.upstream` says."""
    with index.open().connect("reader") as connection:
        alone, upstreams = left_alone(connection), list_upstreams(connection)
    return reachable_result(alone, upstreams, settings.load().plc_url, time.time())
