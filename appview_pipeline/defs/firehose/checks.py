"""The checks on the firehose: does the consumer work, does it keep up, is what comes usable.

The sensor evaluates them as it goes; a person can run them from the UI.
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

from collections.abc import Sequence

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.firehose.events import FIREHOSE
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import reports
from appview_pipeline.store.reports import StreamState

CONNECTED = "connected"
KEEPS_UP = "keeps_up"
FEW_DEAD_LETTERS = "few_dead_letters"

# Beyond these the checks warn. A lag that grows without bound, or a relay gone bad, is far beyond them.
LAG_WARNING_SECONDS = 60.0
REJECTED_WARNING_RATIO = 0.001


def connected_result(trouble: str | None, relay: str) -> dg.AssetCheckResult:
    """Whether the consumer does its work. `trouble`: what keeps it from it, and what to do about that."""
    return dg.AssetCheckResult(
        passed=trouble is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=trouble or f"The consumer is connected to {relay} and to the database.",
        check_name=CONNECTED,
        asset_key=FIREHOSE,
    )


def lag_result(lag_seconds: float | None, idle_seconds: float | None) -> dg.AssetCheckResult:
    """Whether the stream is being consumed, and how far behind the relay."""
    metadata: dict[str, float] = {}
    if lag_seconds is not None:
        metadata["lag_seconds"] = round(lag_seconds, 3)
    if idle_seconds is not None:
        metadata["seconds_since_last_event"] = round(idle_seconds, 1)
    behind = max(lag_seconds or 0.0, idle_seconds or 0.0)
    if lag_seconds is None and idle_seconds is None:
        words = "Nothing has been consumed from this relay yet."
    else:
        words = f"The newest event applied is {behind:,.0f} s behind the relay or the clock."
    return dg.AssetCheckResult(
        passed=bool(metadata) and behind <= LAG_WARNING_SECONDS,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
        check_name=KEEPS_UP,
        asset_key=FIREHOSE,
    )


def stream_result(shards: Sequence[StreamState]) -> dg.AssetCheckResult:
    """`lag_result` of the shard that is furthest behind."""
    return lag_result(
        max((shard.lag_seconds for shard in shards if shard.lag_seconds is not None), default=None),
        max((shard.idle_seconds for shard in shards), default=None),
    )


def rejected_result(events: int, rejected: int) -> dg.AssetCheckResult:
    """Whether more than a trickle of what the relay sends becomes dead letters."""
    ratio = rejected / events if events else 0.0
    return dg.AssetCheckResult(
        passed=ratio <= REJECTED_WARNING_RATIO,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{rejected:,} of {events:,} events have something in pipeline.dead_letter.",
        metadata={"events": events, "rejected": rejected, "rejected_ratio": ratio},
        check_name=FEW_DEAD_LETTERS,
        asset_key=FIREHOSE,
    )


@dg.asset_check(
    asset=FIREHOSE,
    name=CONNECTED,
    description=(
        "The consumer runs, and reaches the relay and the database. Where it does not, the result says what to do. The "
        "firehose sensor evaluates it every minute, and at once when something changes; run by hand it sees only "
        "whether a batch was applied in the last minute."
    ),
)
def connected(index: IndexDatabase) -> dg.AssetCheckResult:
    """Whether batches are being applied: a run can't see the consumer, which is a child of the code server."""
    relay = settings.load().relay_url
    try:
        with index.open().connect("reader") as connection:
            shards = reports.stream_state(connection, relay)
    except OperatorError as error:
        return connected_result(str(error), relay)
    idle = max((shard.idle_seconds for shard in shards), default=None)
    trouble = None
    if idle is None or idle > LAG_WARNING_SECONDS:
        since = "ever" if idle is None else f"in {idle:,.0f} s"
        trouble = f"Nothing was applied from {relay} {since}: the ticks of the firehose sensor say why."
    return connected_result(trouble, relay)


@dg.asset_check(
    asset=FIREHOSE,
    name=KEEPS_UP,
    description=f"The newest event applied is less than {LAG_WARNING_SECONDS:.0f} s old.",
)
def keeps_up(index: IndexDatabase) -> dg.AssetCheckResult:
    """The lag of the shard that is furthest behind."""
    with index.open().connect("reader") as connection:
        shards = reports.stream_state(connection, settings.load().relay_url)
    return stream_result(shards)


@dg.asset_check(
    asset=FIREHOSE,
    name=FEW_DEAD_LETTERS,
    description=f"At most {REJECTED_WARNING_RATIO:.1%} of the last hour's events have a dead letter.",
)
def few_dead_letters(index: IndexDatabase) -> dg.AssetCheckResult:
    """Dead letters against events of the last hour."""
    with index.open().connect("reader") as connection:
        shards = reports.stream_state(connection, settings.load().relay_url)
    return rejected_result(sum(shard.events for shard in shards), sum(shard.rejected for shard in shards))
