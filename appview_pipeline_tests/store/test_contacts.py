"""Notifications of contacts that have joined."""

from __future__ import annotations

import re

from appview_pipeline.store.contacts import ContactMatch, notify_contact_match
from appview_pipeline_tests.support.rerun import Rerun


def test_contacts_are_notified_once(busy: Rerun) -> None:
    match = ContactMatch("did:plc:friend", "at://did:plc:friend/app.bsky.actor.profile/self", "cid")
    oneself = ContactMatch("did:plc:me", "at://did:plc:me/app.bsky.actor.profile/self", "cid")
    written = []
    for _ in range(2):
        with busy.database.connect("writer") as connection:
            written.append(notify_contact_match(connection, "did:plc:me", [match, match, oneself]))
    assert written == [1, 0]
    notified = busy.rows(
        'SELECT did, author, "recordUri", "sortAt" FROM bsky.notification WHERE reason = \'contact-match\''
    )
    assert [row[:3] for row in notified] == [("did:plc:me", match.did, match.uri)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", notified[0][3])
    assert busy.rerun(orphans=None).changed == {}
