"""Alerts: what is said when a check or a run fails, when a check passes again, and to whom."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appview_pipeline import __version__, backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.network.fetch_errors import FetchError
from appview_pipeline.network.xrpc import Client
from appview_pipeline.operations.verdict import Severity, what_to_do
from appview_pipeline.operations.words import duration
from appview_pipeline.settings import Settings

FAILED, STILL_FAILED, PASSED = "failed", "still failed", "passed"
MAX_ANSWER_BYTES = 65_536
"""Bytes of the webhook's answer that are read."""
MAX_WORDS = 1_000
"""Characters of an alert's words; errors of runs may be long."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to say.

    `kind`: "check" or "run". `name`: of the check or job. `asset`: of the check; of a run, its partition or empty.
    `state`: `failed`, `still failed` or `passed`. `words`: what is. `what_to_do`: where to read that. `seconds`: for
    how long the state before lasted, or the failure lasts (None: unknown). `run`: id of a run that failed.
    """

    kind: str
    name: str
    asset: str
    state: str
    severity: Severity
    words: str
    what_to_do: str
    seconds: float | None = None
    run: str | None = None

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        subject = f"{self.kind} {self.name}" + (f" ({self.asset})" if self.asset else "")
        if self.state == PASSED:
            lasted = "" if self.seconds is None else f" after {duration(self.seconds)}"
            return f"OK: {subject} passes again{lasted}. {self.words}".rstrip()
        since = f" for {duration(self.seconds)}" if self.seconds is not None and self.state == STILL_FAILED else ""
        what_to_do = f" What to do: {self.what_to_do}" if self.what_to_do else ""
        return f"{self.severity.upper()}: {subject} {self.state}{since}. {self.words}{what_to_do}"

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Alert:
        """What `as_json` made. Raises `TypeError` and `ValueError` for anything else."""
        return cls(**value)


def short(words: str) -> str:
    """Words that an alert has room for."""
    return words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 1]}…"


def run_alert(job: str, run: str, partition: str | None, error: str) -> Alert:
    """The alert about a run that failed."""
    return Alert(
        kind="run",
        name=job,
        asset=partition or "",
        state=FAILED,
        severity="error",
        words=short(error),
        what_to_do=what_to_do("runs_succeed"),
        run=run,
    )


def message(alerts: Sequence[Alert]) -> dict[str, Any]:
    """What the webhook gets: `text` for chats (Slack, Mattermost), and all else for programs."""
    return {
        "text": "\n".join(alert.sentence for alert in alerts),
        "title": f"appview-pipeline on {socket.gethostname()}",
        "source": "appview-pipeline",
        "version": __version__,
        "host": socket.gethostname(),
        "alerts": [alert.as_json() for alert in alerts],
    }


def deliver(settings: Settings, alerts: Sequence[Alert], *, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Gives the alerts to APPVIEW_ALERT_WEBHOOK, if there is one. Returns why it did not take them; None: it did.

    Takes `backoff.ALERT_SECONDS` at most, with `backoff.ALERT_TRIES` tries. Never names more of the URL than its host,
    since the rest is often a secret.
    """
    if settings.alert_webhook is None or not alerts:
        return None
    headers = {"Content-Type": "application/json; charset=utf-8"}
    if settings.alert_webhook_token is not None:
        headers["Authorization"] = f"Bearer {settings.alert_webhook_token}"
    body = json.dumps(message(alerts)).encode()
    deadline = time.monotonic() + backoff.ALERT_SECONDS
    pauses = backoff.alert()
    for tries_left in reversed(range(backoff.ALERT_TRIES)):
        try:
            # A client of its own: it has forgotten that the last delivery failed.
            with Client(settings) as client:
                client.post(
                    settings.alert_webhook,
                    body,
                    headers=headers,
                    max_bytes=MAX_ANSWER_BYTES,
                    seconds=max(deadline - time.monotonic(), 0.1),
                )
            return None
        except OperatorError as error:
            return str(error)
        except FetchError as error:
            reason = _reason(error)
        pause = pauses.next()
        if not tries_left or time.monotonic() + pause >= deadline:
            break
        sleep(pause)
    return f"The webhook did not take {len(alerts):,} alerts: {reason}."


def _reason(error: FetchError) -> str:
    if error.kind == "redirect":  # where to may be the secret
        return f"{error.host} redirects; APPVIEW_ALERT_WEBHOOK has to be the address that it redirects to"
    return error.reason
