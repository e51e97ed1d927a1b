"""DIDs resolved: `did:plc` by the PLC directory, `did:web` by its own host (https://atproto.com/specs/did)."""

from __future__ import annotations

from dataclasses import dataclass

from appview_pipeline.identity.documents import Document


@dataclass(frozen=True, slots=True)
class Resolution:
    """What came of the resolution of a DID.

    `state`: "found", "not found", "tombstoned" or "invalid" (there is an answer that can't be used); None: no answer,
    to be tried again. `source`: "plc" or "web"; None for a DID of another method. `document` and `json` (the text to
    store, always storable as jsonb) where it is found. `reason`: why there is no document, in words; None where it is
    found, whose own problems are in `document.problems`. `retry_after`: seconds to wait, where the server said so.
    `blames_account`: False where the failure says nothing about the account (a parked host, an open breaker): it is no
    failed attempt of the account's.
    """

    did: str
    state: str | None
    source: str | None
    document: Document | None = None
    json: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    blames_account: bool = True
