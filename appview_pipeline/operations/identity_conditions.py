"""Conditions of resolution: its process works, keeps up, and the servers that it needs answer."""

from __future__ import annotations

from urllib.parse import urlsplit

from appview_pipeline.operations.verdict import Condition, Verdict
from appview_pipeline.operations.words import at_least, duration
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import MAX_COUNTED, HealthReport
from appview_pipeline.store.upstreams import StoredUpstream

ASSET = "actors"
URGENT = ("event", "new")
"""Queues whose accounts should not wait. Those of `retry` wait for servers that come and go, `refresh` for its time."""
NAMED_UPSTREAMS = 3


def _resolving(report: HealthReport, settings: Settings) -> Verdict:
    last = report.identity_report
    if last is None or last.age_seconds > settings.silence_warning_seconds:
        since = "has reported nothing yet" if last is None else f"has reported nothing for {duration(last.age_seconds)}"
        words = f"The identity process {since}: the ticks of the identity sensor say why."
        return RESOLVING.verdict(False, words)
    return RESOLVING.verdict(True, f"The identity process last reported {duration(last.age_seconds)} ago.")


RESOLVING = Condition(
    name="resolving",
    asset=ASSET,
    severity="error",
    setting="APPVIEW_SILENCE_WARNING_SECONDS",
    description=(
        "The identity process runs, and reaches the database. Where it does not, the result says what to do. The "
        "identity sensor evaluates it every minute, and at once when something changes; others see only whether the "
        "process has reported lately."
    ),
    judge=_resolving,
)


def _resolution_keeps_up(report: HealthReport, settings: Settings) -> Verdict:
    last = report.identity_report
    if last is None:
        return RESOLUTION_KEEPS_UP.verdict(False, "The identity process has reported nothing yet.")
    waits = [it.oldest_seconds for name, it in report.identities.items() if name in URGENT]
    oldest = max((wait for wait in waits if wait is not None), default=None)
    queued = sum(it.length for name, it in report.identities.items() if name != "refresh")
    limit, silence = settings.identity_warning_seconds, settings.silence_warning_seconds
    first = (
        "no new one waits for a slot"
        if oldest is None
        else f"the first new one for {duration(oldest)} (limit {duration(limit)})"
    )
    words = f"{at_least(queued, MAX_COUNTED)} accounts wait to be resolved, retries included; {first}."
    if last.age_seconds > silence:
        words = f"The identity process last reported {duration(last.age_seconds)} ago. {words}"
    passed = (oldest or 0.0) <= limit and last.age_seconds <= silence
    numbers = {"queue_length": queued, "queue_age_seconds": oldest or 0.0}
    return RESOLUTION_KEEPS_UP.verdict(passed, words, numbers)


RESOLUTION_KEEPS_UP = Condition(
    name="resolution_keeps_up",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_IDENTITY_WARNING_SECONDS",
    description="No new account or event waits long to be resolved.",
    judge=_resolution_keeps_up,
)


def _upstreams_reachable(report: HealthReport, settings: Settings) -> Verdict:
    now = report.taken_at.timestamp()
    silent = [one for one in report.upstreams if one.breaker != "closed" or (one.parked_until or 0.0) > now]
    named = {one.host: one for one in silent}
    directory = named.pop(_host(settings.plc_url), None)
    words = "The PLC directory is asked."
    if directory is not None:
        words = f"The PLC directory {_in_words(directory, now)}. Accounts wait for it; nothing is lost."
    alone = report.left_alone
    others = list(named.values())
    if others:
        listed = "; ".join(f"{one.host} {_in_words(one, now)}" for one in others[:NAMED_UPSTREAMS])
        more = alone.open + alone.parked - min(len(others), NAMED_UPSTREAMS) - (directory is not None)
        words += f" Other servers that are left alone: {listed}" + (f", and about {more:,} more." if more > 0 else ".")
    numbers = {"breakers_open": alone.open, "parked": alone.parked}
    return UPSTREAMS_REACHABLE.verdict(directory is None, words, numbers)


def _host(url: str) -> str:
    """The host of a URL as `pipeline.upstream` has it: with the port where it is not the usual one."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    return host if parts.port in (None, usual) else f"{host}:{parts.port}"


def _in_words(upstream: StoredUpstream, now: float) -> str:
    why = f" ({upstream.reason})" if upstream.reason else ""
    if (upstream.parked_until or 0.0) > now:
        return f"asked to be left alone for another {duration((upstream.parked_until or now) - now)}{why}"
    return f"failed {upstream.failures:,} times in a row and is left alone for a while{why}"


UPSTREAMS_REACHABLE = Condition(
    name="upstreams_reachable",
    asset=ASSET,
    severity="warn",
    setting=None,
    description="The PLC directory answers, and has not asked to be left alone. The result names other such servers.",
    judge=_upstreams_reachable,
)

CONDITIONS = (RESOLVING, RESOLUTION_KEEPS_UP, UPSTREAMS_REACHABLE)
