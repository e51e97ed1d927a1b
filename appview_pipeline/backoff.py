"""How long to wait before trying something again, how often, and for how long to wait for others.

The one retry policy, and its numbers for each use. Time limits of statements and connections are in
`store/database.py`; what an operator may want to change is a setting.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """Exponential back-off with jitter, so that many clients of one server don't return all at once.

    The n-th wait in a row has a ceiling of `first * 2**n` seconds, at most `longest`. `jitter` is the share of it that
    is drawn at random: with 1.0 the wait is anything from 0 to the ceiling, but never under a tenth of `first`.
    A connection that held for `healthy` seconds, or that made progress, ends the row.
    """

    first: float = 1.0
    longest: float = 64.0
    healthy: float = 30.0
    jitter: float = 1.0
    failures: int = 0

    def next(self) -> float:
        """Seconds to wait now; counts one more failure."""
        ceiling = min(self.longest, self.first * 2 ** min(self.failures, 30))
        self.failures += 1
        return max(self.first / 10, random.uniform(ceiling * (1 - self.jitter), ceiling))

    def longest_wait(self) -> float:
        """Seconds to wait where trying soon can't help; counts one more failure. Half of it is jitter."""
        self.failures += 1
        return random.uniform(self.longest / 2, self.longest)

    def connected_for(self, seconds: float, *, progressed: bool = False) -> None:
        """Notes how long the connection that has just ended had held, and whether it brought anything new.

        A server that drops its consumers again and again, each time after some events, is one to return to at once:
        a pause that grows would make the consumer fall behind the more, the longer it has to catch up.
        """
        if progressed or seconds >= self.healthy:
            self.failures = 0


@dataclass(frozen=True)
class Poll:
    """Waiting for what another process does: looked at every `every` seconds, for `longest` seconds at most."""

    every: float
    longest: float


def relay() -> Backoff:
    """Connections to an event stream."""
    return Backoff(first=1.0, longest=64.0, healthy=30.0)


MAX_RETRY_AFTER = 900.0
"""Longest wait, in seconds, that a server's `Retry-After` can ask for."""
MIN_RETRY_AFTER = 1.0
"""Shortest pause, in seconds, after a server asked for one."""
FUTURE_CURSOR_SECONDS = 300.0
"""Between two connections with a cursor that the server says is in its future. Only a person can help, mostly."""


HOSTING_STATUS_TRIES = 5
"""Failures after which a PDS that does not answer no longer contradicts what the relay says of its account."""


def batch() -> Backoff:
    """A batch that PostgreSQL did not take because it is away or busy."""
    return Backoff(first=0.05, longest=10.0, jitter=0.5)


BATCH_CANCELLATIONS = 2
"""Cancellations for time after which a batch is halved."""
CANCELLATIONS_BY_OTHERS = 5
"""Cancellations of one change, before its time was over, after which it is given up. Somebody else cancels it then: a
person, once or twice, or a limit on a server or pooler that we don't know of, again and again."""

SESSION_LOCK = Poll(every=0.25, longest=12.0)
"""A lock that another leased process holds (a stream's, say): as long as an outgoing one may take to end."""
SESSION_LOCK_CHECK_SECONDS = 1.0
"""How often the holder of such a lock makes sure that it still has it."""


def leased_process() -> Backoff:
    """Starts of a leased process that keeps failing. A process that ran for a minute had started well."""
    return Backoff(first=1.0, longest=30.0, healthy=60.0, jitter=0.0)


GRACE_SECONDS = 4.0
"""What a leased process has for the batch in hand once its end is decided; then it ends, and the batch rolls back."""
STOP_POLL_SECONDS = 0.2
"""How often a wait looks whether it should end."""
RUN_END_SECONDS = 3.0
"""What a run has to end by itself when its code server is asked to end; then it is killed, and the transaction in hand
rolls back."""
DAGSTER_END_SECONDS = 6.0
"""What the code server and the daemon have to end once they are asked to; then they end by force, which loses no more
than a crash does: nothing."""


def identity_refresh() -> float:
    """Seconds until an identity is refreshed: once a day, spread, and some hours before the day is over, so that an
    outage of the directory does not cost accounts the handles that are kept for a day."""
    return 86_400.0 * random.uniform(0.7, 0.9)


def handle_recheck() -> float:
    """Seconds until a handle that is not verified, or a DID without a document, is looked up again."""
    return 3_600.0 * random.uniform(1.0, 1.1)


def rerun() -> Backoff:
    """A rerun or a recount that gives way to other sessions, which hold the rows that it needs."""
    return Backoff(first=0.2, longest=10.0, jitter=0.5)


RERUN_TRIES = 10
"""Tries before a rerun gives up and says so."""
TRIAL_LOCK_SECONDS = 2.0
"""Seconds that `explain` waits for rows that others hold. It then says so, and a person asks again."""
TRIAL_SECONDS = 30.0
"""Limit of each of its statements."""


def resolution(attempts: int) -> float:
    """Seconds until a DID is resolved again whose last `attempts` attempts (one or more) got no answer: about 1, 2 and
    4 s, then a minute, doubling to an hour."""
    if attempts <= RESOLUTION_QUICK_TRIES:
        return Backoff(first=1.0, jitter=0.25, failures=attempts - 1).next()
    return Backoff(first=60.0, longest=3_600.0, jitter=0.25, failures=attempts - 1 - RESOLUTION_QUICK_TRIES).next()


def resolution_elsewhere(seconds: float | None) -> float:
    """Seconds until a DID is resolved again that could not be asked for, because its server is left alone for so many
    `seconds` (None: unknown). A part is jitter, so that those who wait don't return all at once."""
    wait = 60.0 if seconds is None else min(max(seconds, 1.0), 3_600.0)
    return wait + random.uniform(0.0, min(wait / 4, 60.0))


RESOLUTION_QUICK_TRIES = 3
"""Attempts at a DID, or at a handle whose servers don't answer, that follow within seconds."""
RESOLUTION_POLL_SECONDS = 0.5
"""Between two looks into a queue of resolution that was empty."""
RESOLUTION_SAVE_SECONDS = 0.25
"""How long an answer waits for others, to be saved with them."""
RESOLUTION_REPORT_SECONDS = 5.0
"""Between two reports of the identity process while it has something to report."""
RESOLUTION_QUIET_SECONDS = 60.0
"""The same while it has nothing to report."""
RESOLUTION_CLAIM_SECONDS = 300.0
"""How long an account that is being resolved belongs to the process that took it: longer than all its requests take,
one after the other. A process that ends gives its accounts back at once; one that is killed, after this time."""
RESOLUTION_ANEW_SECONDS = 600.0
"""An account is resolved anew when its PDS does not give out what it should, and then not again for so long: many
records of one account may be asked for that has been deactivated."""
RESOLUTION_END_SECONDS = 1.5
"""What a process that should end waits for requests that are under way."""
RESOLUTION_TURNED_AWAY = 100
RESOLUTION_TURNED_AWAY_SECONDS = 0.1
"""So many accounts in a row could not be asked for: the directory is left alone, most likely. Then each queue is looked
into no more often than this, since accounts that are taken in vain cost the database as much as others."""
REFRESH_TURNED_AWAY = 200
"""Accounts in a row that could not be asked for, after which a run of the job `refresh_dids` ends: the directory is
left alone."""


def database_away() -> Backoff:
    """Statements of the identity process that PostgreSQL did not take because it is away or busy."""
    return Backoff(first=0.1, longest=10.0, jitter=0.5)


EXPORT_COMPARISONS = 3
"""How often one export is compared with the index while the stream brings what is older than the export; then it is
fetched again, later."""
AUDIT_STREAM = Poll(every=0.5, longest=10.0)
"""An audit waits so long for the stream to bring what an export has already."""

SCHEDULE_SECONDS = 20.0
"""How long an evaluation of a schedule waits for an embedded database that is starting."""


def server() -> Backoff:
    """Starts of the embedded PostgreSQL server after it died more than once."""
    return Backoff(first=0.4, longest=3.2, healthy=SERVER_RESTARTS_SECONDS, jitter=0.0)


SERVER_RESTARTS = 5
SERVER_RESTARTS_SECONDS = 300.0
"""A server that dies more often within so many seconds is not started again, until the next process needs it."""

SUPERVISOR_TRIES = 3
"""Starts in a row of a supervisor that ends without a reason (killed, broken installation)."""

POLL_SECONDS = 0.02
"""Between two looks at a process or a lock that may change at any moment."""

IDLE_POLL_SECONDS = 1.0
"""Between two looks whether the embedded server is still used."""

STARTING_IDLE_SECONDS = 600.0
"""How long a start of the embedded server goes on that no process waits for."""

REPORT_SECONDS = 15.0
"""Between two log lines about a wait that goes on."""

SESSION_TRIES = 10
"""Tries to set a session up where the server's own limit for a statement may be a millisecond."""
POOL_SECONDS = 30
"""How long a caller waits for a connection of this process's pool."""
POOLER_TRIES = 3
POOLER_SECONDS = 5.0
"""How often a server is asked whether a pooler shares its sessions, and how long it has to answer a second client."""

MIGRATION_SECONDS = 900.0
"""How long one process waits for another that migrates the same database."""
MIGRATION_POLL_SECONDS = 0.2
"""Between two looks whether the other has ended."""
MIGRATION_LOCK_SECONDS = 3.0
MIGRATION_PAUSE_SECONDS = 1.0
"""How long a migration waits for the lock of a table, and holds up all that come after it. And the pause before it
tries again."""

ADOPTION_POLL_SECONDS = 1.0
"""How often an adoption looks whether it should stop, while its processes say nothing."""
ADOPTION_WATCH_SECONDS = 2.5
"""How long an adoption looks whether something else still writes records. PostgreSQL's statistics are a second late."""

BREAKER_FAILURES = 5
BREAKER_SECONDS = 60.0
"""A server that fails so often in a row is not asked for so many seconds; then one request finds out whether it is
back."""
BREAKER_REPEATED_SECONDS = 15.0
"""For so many seconds more, that request is not one that has failed before."""


def parked_host() -> Backoff:
    """A server that asks for a pause (429, 503) and does not say for how long."""
    return Backoff(first=5.0, longest=300.0, jitter=0.5)


OVERDUE_POLL_SECONDS = 1.0
"""Between two looks for connections with TLS that go on after their deadline."""

IDLE_CONNECTION_SECONDS = 30.0
"""How long a connection to a server may have been idle when it is used again. Firewalls on the way forget idle
connections without a word, and a request on such a one would look like a server that hangs."""

BACKFILL_TRIES = 8
"""Failures of a repository after which it is given up for now."""


def repository(attempts: int) -> float:
    """Seconds until a repository is fetched again whose last `attempts` attempts (one or more) failed: a minute,
    doubling to an hour."""
    return Backoff(first=60.0, longest=3_600.0, jitter=0.25, failures=attempts - 1).next()


def parked_repository(attempts: int, *, is_gone: bool) -> float:
    """Seconds until a repository is fetched again that was given up: a day. Of one that `is_gone`, as its host says,
    the time doubles with each attempt, up to 30 days; events of the account queue it sooner."""
    longest = 30 * 86_400.0 if is_gone else 86_400.0
    return Backoff(first=86_400.0, longest=longest, jitter=0.1, failures=max(attempts - 1, 0)).next()


def parked_pds(failures: int) -> float:
    """Seconds that no repositories are fetched from a host which failed so often in a row (one or more) and did not say
    for how long it wants to be left alone: 15 s, doubling to an hour."""
    return Backoff(first=15.0, longest=3_600.0, jitter=0.25, failures=failures - 1).next()


BACKFILL_CLAIM_SECONDS = 60.0
"""How long a repository that is being fetched belongs to the process that took it, which renews that at a third of it.
What a process that is killed had taken is free after this time."""
BACKFILL_URGENT_SECONDS = 1.0
"""Between two looks for something urgent, while a process works off the rest of the queue."""
BACKFILL_FILL_SECONDS = 0.25
"""How long the records of small repositories wait for others, to be written with them."""
BACKFILL_LOCK_SECONDS = 0.7
"""How long a transaction of a backfill should hold locks that the live writer may wait for: transactions get as many
records as that allows, up to `APPVIEW_BACKFILL_ROWS`."""
BACKFILL_REPORT_SECONDS = 5.0
"""Between two reports of a process that fetches repositories."""
BACKFILL_COUNT_SECONDS = 60.0
"""How often such a process counts the repositories that wait: more of them come while it is at work."""
BACKFILL_END_SECONDS = 20.0
"""What a process that fetches repositories, and should end, waits for those that it has downloaded to be written."""
LISTING_CLAIM_SECONDS = 120.0
"""How long a host that is being listed belongs to the process that took it: longer than reading one page takes."""


def listing(attempts: int) -> float:
    """Seconds until a list is read on whose last `attempts` attempts (one or more) failed: 5 s, doubling to an hour."""
    return Backoff(first=5.0, longest=3_600.0, jitter=0.25, failures=attempts - 1).next()


LISTING_TRIES = 8
"""Failures in a row after which a host's list is left as it is, until a new listing of the network begins."""
LISTING_SECONDS = 86_400.0
"""Between two listings of the network."""

RANGE_QUIET_SECONDS = 10.0
"""How long a replay of a range of sequence numbers waits for a relay that is connected and sends nothing."""
RANGE_CONNECT_SECONDS = 120.0
"""How long it waits for a relay that it can't connect to."""


def missing_record(attempts: int) -> float:
    """Seconds until a missing record is asked for again of which `attempts` attempts (one or more) have failed: about
    ten minutes, then three hours. There are three attempts in all, within a day."""
    return (600.0 if attempts <= 1 else 10_800.0) * random.uniform(0.9, 1.1)


MISSING_RECORD_TRIES = 3
"""Attempts to fetch a single record on which others depend."""
MISSING_RECORDS_SECONDS = 30.0
"""Between two looks for missing records, while fewer are due than are taken at once."""
MISSING_RECORDS_CLAIM_SECONDS = 300.0
"""How long missing records belong to the fetch process that took them. Those that it could not ask for are due again
after this time, as if they had not been taken."""
SIGNATURES_SECONDS = 3.0
"""Between two looks for signatures that can be checked now."""
FETCH_REPORT_SECONDS = 5.0
"""Between two reports of the fetch process while it has something to report."""
FETCH_QUIET_SECONDS = 60.0
"""The same while it has nothing to report."""


SIGNATURE_CHECK_SECONDS = (5.0, 3_600.0)
"""A commit whose account's key is not known is looked at again after as long as it has waited, within these bounds."""
SURVEY_RECHECK_SECONDS = 5.0
"""How long a survey waits for the stream to bring what the relay lists, before it takes it for missing."""
SURVEY_LAG_SECONDS = 120.0
"""A stream that is further behind is left to catch up before its gaps are surveyed."""

HEALTH_SECONDS = 60
"""Between two evaluations of the checks (whole seconds)."""
HEALTH_REPEAT_SECONDS = 290.0
"""How often a check is reported that passes as before; failures, and what changes, each time."""
HEALTH_SILENCE_SECONDS = 150.0
"""A check that its own sensor has not evaluated for so long is evaluated by the health sensor. A code server that has
begun gives the others as long, before it says what is wrong."""
HEALTH_READ_SECONDS = 30.0
"""Limit for reading all that health is evaluated by; each statement has its own. A tick may take 60 s in all."""
HEALTH_DATABASE_SECONDS = 10.0
"""How long a tick waits for an embedded database that is starting."""
ALERT_POLL_SECONDS = 30
"""Between two looks for checks and runs that failed (whole seconds)."""
ALERT_SECONDS = 10.0
"""Limit for one delivery of alerts to the webhook, with all its tries."""
ALERT_TRIES = 3


def alert() -> Backoff:
    """Deliveries of alerts that the webhook did not take."""
    return Backoff(first=0.5, longest=4.0, jitter=0.5)


SUMMARY_SECONDS = 15.0
"""Between two lines of the log that sum up what a consumer or the label process applied."""
LABEL_FEED_POLL_SECONDS = 2.0
"""Between two looks at the label feed when no NOTIFY comes."""


LABELERS_CHOICE_SECONDS = 60.0
"""Between two looks which labelers are to be read."""
LABELERS_LOOK_SECONDS = 5.0
"""Between two looks whether their DID documents or stored cursors have changed."""
LABELER_STATES_SECONDS = 10.0
"""How often their states are written while these stay as they are; a change is written at once."""
LABELER_QUIET_SECONDS = 2.0
LABELER_NEW_SECONDS = 60.0
"""A stream has brought all that its labeler had to send once it has brought nothing for so long, or labels that were
made so few seconds ago."""
LABELER_EVENT_SECONDS = 15.0
"""How long the resolution that an #identity event asked for is left to the identity process; then the label process
does it itself, in case that none runs."""
LABELER_KEY_SECONDS = 300.0
"""A labeler whose signatures don't fit its key is resolved once more, and then not again for so long."""
LABELER_HELD_SECONDS = 30.0
"""Between two tries to resolve it while nobody answers; its frames wait."""
LABELER_REREAD_SECONDS = 86_400.0
"""How often a stream is read from the beginning again because its server does not keep what came after the cursor."""
LABELER_REJECTED = 10_000
LABELER_REJECTED_SHARE = 0.95
"""A labeler is parked once so many of its labels and frames were rejected, and they are more than this share of the
newest ones."""
LABELS_POLL_SECONDS = 0.05
LABELERS_IDLE_SECONDS = 0.2
"""Between two looks whether a micro-batch has filled, and while nothing comes."""
LABELS_EXPIRED_SECONDS = 5.0
"""Between two announcements of labels that have expired."""


def labeler() -> Backoff:
    """Connections to the stream of a labeler."""
    return Backoff(first=1.0, longest=300.0, healthy=30.0)


def parked_labeler() -> float:
    """Seconds until a labeler that is parked is tried again."""
    return 3_600.0 * random.uniform(1.0, 1.1)


LABELS_SEND_SECONDS = 20.0
"""How long a client of the label service may take nothing in, while labels wait for it."""
LABELS_PING_SECONDS = 30.0
"""Between two pings of a client of the label service, and how long it has to answer one."""
LABELS_CLOSE_SECONDS = 5.0
"""How long a client has to take the last frames in, and to answer the end of its stream."""
LABELS_RETRY_AFTER = 30
"""Seconds after which a client that was refused, because there are too many or the database is away, may come again."""

SERVING_HEAD_SECONDS = 10.0
"""How long a client of a server of ours has for the head of a request."""
SERVING_END_SECONDS = 3
"""What a server of ours, once it should end, waits for its clients (whole seconds)."""

METRICS_FRESH_SECONDS = 3.0
"""How long what was read of the database answers for metrics and probes, so that many of them cost as one."""
METRICS_WAIT_SECONDS = 8.0
"""How long metrics and probes wait for the database, which is less than Prometheus waits for them (10 s)."""
METRICS_COUNT_SECONDS = 120.0
"""How old the oldest report of a batch is that is not counted, when `appview-pipeline serve` counts them itself: their
sweep does it every few minutes."""
METRICS_COUNTED_SECONDS = 3_600.0
"""The same when there are too many to be added up for an answer: counters are left out until they are counted."""

HEALTHY_SECONDS = 10.0
"""How long `appview-pipeline healthy` waits for an answer."""

RETENTION_REFRESH_SECONDS = 300.0
"""How long a writer goes by what it knows of protected accounts, and of how old a record may be."""
