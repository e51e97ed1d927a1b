"""Conditions of the stream: a consumer works, keeps up, gets what the network usually sends, and can use it."""

from __future__ import annotations

from collections.abc import Sequence

from appview_pipeline.operations.verdict import Condition, Verdict
from appview_pipeline.operations.words import duration, share
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport, StreamHealth

ASSET = "firehose"
MIN_USUAL_RATE = 0.5
"""A stream with fewer events a second than that is too quiet to say that it has become quieter."""


def _never_begun(shards: Sequence[StreamHealth]) -> list[str]:
    """The shards of the layout in use that have no cursor yet: nobody consumes their repositories."""
    known = {stream.shard for stream in shards}
    of = max((int(shard.partition("/")[2]) for shard in known), default=0)
    return [shard for shard in (f"{i}/{of}" for i in range(of)) if shard not in known]


def _connected(report: HealthReport, settings: Settings) -> Verdict:
    relay = settings.relay_url
    shards = report.in_use
    if not shards:
        return CONNECTED.verdict(
            False, f"Nothing was applied from {relay} ever: the ticks of the firehose sensor say why."
        )
    idle = max(stream.idle_seconds for stream in shards)
    numbers = {"seconds_since_last_event": idle}
    missing = [*(stream.shard for stream in shards if not stream.is_consumed), *_never_begun(shards)]
    if missing:
        which = f" (shard {', '.join(missing)})" if missing != ["0/1"] else ""
        words = f"No consumer is at work on {relay}{which}: the ticks of the firehose sensor say why."
        return CONNECTED.verdict(False, words, numbers)
    if idle > settings.silence_warning_seconds:
        words = (
            f"Nothing was applied from {relay} for {duration(idle)} (limit {duration(settings.silence_warning_seconds)}"
            "): the ticks of the firehose sensor say why."
        )
        return CONNECTED.verdict(False, words, numbers)
    return CONNECTED.verdict(
        True, f"A consumer is at work on {relay}; its last batch is {duration(idle)} old.", numbers
    )


CONNECTED = Condition(
    name="connected",
    asset=ASSET,
    severity="error",
    setting="APPVIEW_SILENCE_WARNING_SECONDS",
    description=(
        "The consumer runs, and reaches the relay and the database. Where it does not, the result says what to do. The "
        "firehose sensor evaluates it every minute, and at once when something changes; others see only whether a "
        "consumer holds the stream's lock, and whether something was applied lately."
    ),
    judge=_connected,
)


def _keeps_up(report: HealthReport, settings: Settings) -> Verdict:
    shards = report.in_use
    if not shards:
        return KEEPS_UP.verdict(False, "Nothing has been consumed from this relay yet.")
    idle = max(stream.idle_seconds for stream in shards)
    lags = [stream.lag_seconds for stream in shards if stream.lag_seconds is not None]
    behind = max([idle, *lags])
    limit = settings.lag_warning_seconds
    numbers = {"seconds_since_last_event": idle}
    if lags:
        numbers["lag_seconds"] = max(lags)
    words = f"The newest event applied is {duration(behind)} behind the relay or the clock (limit {duration(limit)})."
    if absent := _never_begun(shards):
        words += f" Nobody has begun to consume the shards {', '.join(absent)}: their repositories wait."
    return KEEPS_UP.verdict(behind <= limit and not absent, words, numbers)


KEEPS_UP = Condition(
    name="keeps_up",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_LAG_WARNING_SECONDS",
    description="The newest event applied is not old, and each shard has begun.",
    judge=_keeps_up,
)


def _throughput(report: HealthReport, settings: Settings) -> Verdict:
    rates = [stream.events_per_second for stream in report.in_use]
    if not rates or None in rates:
        return THROUGHPUT.verdict(True, "Too little was applied in the last ten minutes to say a rate.")
    rate = sum(it for it in rates if it is not None)
    usual_rates = [stream.usual_events_per_second for stream in report.in_use]
    usual = None if None in usual_rates else sum(it for it in usual_rates if it is not None)
    numbers = {"events_per_second": rate}
    words = f"The network sent {rate:,.1f} events/s in the last ten minutes"
    wanted = settings.throughput_warning_rate
    if usual is not None:
        numbers["usual_events_per_second"] = usual
        words += f", {usual:,.1f}/s in the hour before"
        if usual >= MIN_USUAL_RATE:
            wanted = max(wanted, usual * settings.throughput_warning_share)
    words += f" (limit {wanted:,.1f}/s)." if wanted else "."
    return THROUGHPUT.verdict(rate >= wanted, words, numbers)


THROUGHPUT = Condition(
    name="throughput",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_THROUGHPUT_WARNING_SHARE",
    description=(
        "About as many events come as in the hour before, and no fewer than APPVIEW_THROUGHPUT_WARNING_RATE. They are "
        "counted by the relay's clock, so that catching up changes nothing."
    ),
    judge=_throughput,
)


def _few_dead_letters(report: HealthReport, settings: Settings) -> Verdict:
    events = sum(stream.events_last_hour for stream in report.in_use)
    rejected = sum(stream.rejected_last_hour for stream in report.in_use)
    ratio = rejected / events if events else 0.0
    limit = settings.dead_letter_warning_share
    words = (
        f"{rejected:,} of {events:,} events of the last hour have something in pipeline.dead_letter "
        f"(limit {share(limit)})."
    )
    numbers = {"events": events, "rejected": rejected, "rejected_ratio": ratio}
    return FEW_DEAD_LETTERS.verdict(ratio <= limit, words, numbers)


FEW_DEAD_LETTERS = Condition(
    name="few_dead_letters",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_DEAD_LETTER_WARNING_SHARE",
    description="Few of the last hour's events have a dead letter.",
    judge=_few_dead_letters,
)

CONDITIONS = (CONNECTED, KEEPS_UP, THROUGHPUT, FEW_DEAD_LETTERS)
