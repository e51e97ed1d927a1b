"""Whether others can take the labels that are made here: what a label service needs besides itself."""

from __future__ import annotations

from appview_pipeline.protocol.signing import public_key_of
from appview_pipeline.settings import Settings
from appview_pipeline.store import identities
from appview_pipeline.store.database import Database


def obstacles(settings: Settings, database: Database) -> list[str]:
    """What keeps clients from taking labels of `APPVIEW_LABELER_DID`, each as a sentence with the remedy; empty where
    nothing is known to. Looks at the DID document as it was last resolved, and asks nobody."""
    did = settings.labeler_did
    if did is None:
        return []
    if settings.labeler_key is None:
        return [
            "Labels made here have no signature, since APPVIEW_LABELER_KEY is not set: clients will not take them, and "
            "they are served with --unsigned only."
        ]
    with database.connect("reader") as connection:
        known = identities.read(connection, [did]).get(did)
    if known is None or known.state != "found":
        return [
            f"The DID document of {did} is not known here, so it was not checked: run "
            f"`appview-pipeline identity show {did} --refresh`."
        ]
    found = []
    key = public_key_of(settings.labeler_key)
    if known.labeler_key != key.did_key():
        found.append(
            f"The DID document of {did} has {known.labeler_key or 'no key'} for labels (#atproto_label), but "
            f"APPVIEW_LABELER_KEY belongs to {key.did_key()}: clients will refuse the labels until one is changed."
        )
    if known.labeler is None:
        found.append(
            f"The DID document of {did} names no label service (#atproto_labeler): clients will not find this one."
        )
    return found
