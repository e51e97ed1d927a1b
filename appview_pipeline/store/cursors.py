"""Reading `pipeline.cursor`, and opening a shard's; it is moved by `apply`, in a batch's transaction, nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from appview_pipeline.addresses import relay_name
from appview_pipeline.shards import Shard, StoredCursor, start_of
from appview_pipeline.store.sql import sections


@dataclass(frozen=True)
class Opened:
    """A shard's cursor as it starts: `seq` (None: the stream has not begun), and what led there.

    `taken_from`: the shards of other layouts that had its repositories before. `closed`: cursors deleted because this
    layout has taken over all that they stood for.
    """

    seq: int | None
    taken_from: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


def cursor_of(connection: Connection, relay: str, shard: str) -> int | None:
    """The sequence number up to which a stream is applied, None when it has not begun."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq FROM pipeline.cursor WHERE relay = %s AND shard = %s", (relay, shard))
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def newest_cursor(connection: Connection, relay: str) -> int | None:
    """The sequence number that the stream's shard that is furthest has reached, None when none has begun."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(seq) FROM pipeline.cursor WHERE relay = %s", (relay,))
        row = cursor.fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])


def open_cursor(connection: Connection, relay: str, shard: Shard, start_cursor: int | None) -> Opened:
    """Where `shard` starts, taken over from the layouts before it (`shards.start_of`), and commits that.

    What is stored under another spelling of a relay's URL gets the relay's name first (`name_relays`). To be called by
    the holder of the shard's lock only. `start_cursor`: where repositories begin that no shard had.
    """
    name_relays(connection)
    statements = sections("apply/cursor.sql")
    place = {"relay": relay, "shard": str(shard), "count": shard.count}
    with connection.cursor() as cursor:
        cursor.execute(statements["lock"], place)
        cursor.execute(statements["all"], place)
        known = [StoredCursor(Shard.parse(text), seq, moved_at) for text, seq, moved_at in cursor.fetchall()]
        own = next((it for it in known if it.shard == shard), None)
        others = [it for it in known if it.shard.count != shard.count]
        if not others:
            connection.commit()
            return Opened(None if own is None else own.seq)
        seq = start_of(shard, known, start_cursor)
        if seq is not None:
            cursor.execute(statements["open"], {**place, "seq": seq})
        cursor.execute(statements["close_former"], place)
        closed = tuple(text for (text,) in cursor.fetchall())
    connection.commit()
    before = tuple(str(it.shard) for it in others if it.shard.overlaps(shard))
    return Opened(seq, before if own is None or own.seq != seq else (), closed)


def name_relays(connection: Connection) -> int:
    """Moves all that is stored under other spellings of relays' URLs to the relays' names, and commits that.

    Returns how many spellings there were: 0 but for the first start after a spelling has changed.
    """
    statements = sections("apply/relay_names.sql")
    with connection.cursor() as cursor:
        cursor.execute(statements["all"])
        spellings = {text: relay_name(text) for (text,) in cursor.fetchall()}
        changed = {old: new for old, new in spellings.items() if old != new}
        if changed:
            names = {"old": list(changed), "new": list(changed.values())}
            for statement in ("lock", "limits", "cursors", "batches", "dead_letters", "same_gaps", "gaps"):
                cursor.execute(statements[statement], names)
    connection.commit()
    return len(changed)
