"""The streams of relays, and what their batches brought. Labels: the relay's URL and the shard (`0/1` is all of it)."""

from __future__ import annotations

from collections.abc import Callable

from appview_pipeline.operations.metrics.family import Family, Values, gauge, histogram, total
from appview_pipeline.operations.reading import Reading
from appview_pipeline.store.health_report import StreamHealth

_STREAM = "relay shard"


def _each(value: Callable[[Reading, StreamHealth], float | int | None]) -> Callable[[Reading], Values]:
    """A value of each stream that is in use."""

    def values(reading: Reading) -> Values:
        for stream in reading.report.in_use if reading.report is not None else ():
            yield (stream.relay, stream.shard), value(reading, stream)

    return values


def _last_batch(reading: Reading, stream: StreamHealth) -> float | None:
    return None if reading.report is None else reading.report.taken_at.timestamp() - stream.idle_seconds


FAMILIES: tuple[Family, ...] = (
    gauge(
        "appview_stream_consumer_running",
        "1: a consumer holds the stream's lock; 0: none does.",
        _STREAM,
        _each(lambda _, stream: stream.is_consumed),
    ),
    gauge(
        "appview_stream_lag_seconds",
        "How late the newest event was applied, by the relay's clock and the database's.",
        _STREAM,
        _each(lambda _, stream: stream.lag_seconds),
    ),
    gauge(
        "appview_stream_last_batch_timestamp_seconds",
        "When the last batch was applied.",
        _STREAM,
        _each(_last_batch),
    ),
    gauge(
        "appview_stream_sequence_number",
        "Sequence number of the last event applied: the cursor.",
        _STREAM,
        _each(lambda _, stream: stream.seq),
    ),
    total("appview_stream_batches", "Batches applied.", _STREAM, "stream_batches"),
    total("appview_stream_frames", "Frames read.", _STREAM, "stream_frames"),
    total("appview_stream_received_bytes", "Bytes of these frames.", _STREAM, "stream_bytes"),
    total("appview_stream_events", "Events in them.", _STREAM, "stream_events"),
    total(
        "appview_stream_stale_events",
        "Events skipped because a newer rev of the repository was applied already.",
        _STREAM,
        "stream_stale",
    ),
    total(
        "appview_stream_withheld_events",
        "Events of accounts that opted out or are deleted, of which something was left out.",
        _STREAM,
        "stream_withheld",
    ),
    total(
        "appview_stream_skipped_numbers",
        "Sequence numbers that the relay left out.",
        _STREAM,
        "stream_skipped",
    ),
    total(
        "appview_stream_doubtful_numbers",
        "Frames whose sequence number does not fit those before.",
        _STREAM,
        "stream_doubtful",
    ),
    total(
        "appview_stream_accounts",
        "Accounts that batches had commits, #sync or #identity events of; an account counts once in each batch.",
        _STREAM,
        "stream_accounts",
    ),
    total(
        "appview_stream_unresolved_accounts",
        "Those of them that were queued to be resolved: the identity cache did not have them, or events asked for it.",
        _STREAM,
        "stream_unresolved",
    ),
    histogram(
        "appview_stream_decode_seconds",
        "Seconds that decoding and checking a batch took.",
        _STREAM,
        of="stream_decode",
        count="stream_batches",
    ),
    histogram(
        "appview_stream_apply_seconds",
        "Seconds that a batch took in the database.",
        _STREAM,
        of="stream_apply",
        count="stream_batches",
    ),
)
