"""Operations of the PLC directory: logs that others made, valid and not, and the documents that they lead to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.identity.documents import document_json, parse_document
from appview_pipeline.identity.plc_operations import (
    InvalidOperation,
    LogEntry,
    did_of,
    document_of,
    operation_cid,
    previous_of,
    rotation_keys,
    signer_of,
    verify_first,
    verify_log,
)

DID = "did:plc:z72i7hdynmk6r22z27h6tvur"
KEY = "did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"
P256_KEY = "did:key:zDnaet3CLvFwasyRn1qaCJec6XDqh2pXE4fUoJpG19H9xauUf"

WHY_NOT = {
    "log_invalid_nullification_reused_key.json": "operation 3: the operation's signature is by none of",
    "log_invalid_nullification_too_slow.json": "operation 3: it undoes an operation that is more than 72 hours old",
    "log_invalid_sig_b64_newline.json": "operation 1: the operation's signature is not 64 bytes in base64url",
    "log_invalid_sig_b64_padding_bits.json": "operation 1: the operation's signature is not 64 bytes in base64url",
    "log_invalid_sig_b64_padding_chars.json": "operation 1: the operation's signature is not 64 bytes in base64url",
    "log_invalid_sig_der.json": "operation 1: the operation's signature is by none of",
    "log_invalid_sig_k256_high_s.json": "operation 1: the operation's signature is by none of",
    "log_invalid_sig_p256_high_s.json": "operation 1: the operation's signature is by none of",
    "log_invalid_update_nullified.json": "operation 5: it follows an operation that is not in the log, or that was",
    "log_invalid_update_tombstoned.json": "operation 3: it follows a tombstone",
}


def read_log(path: Path) -> tuple[str, list[LogEntry]]:
    lines = orjson.loads(path.read_bytes())
    entries = [LogEntry(it["operation"], it["cid"], it["createdAt"], it["nullified"]) for it in lines]
    return lines[0]["did"], entries


def test_logs_of_others_are_valid_or_not_as_their_names_say(conformance: Path) -> None:
    files = sorted((conformance / "plc").rglob("*.json"))
    found = {}
    for path in files:
        did, entries = read_log(path)
        try:
            verify_log(did, entries)
        except InvalidOperation as error:
            found[path.name] = str(error)
    assert len(files) > 20
    assert found.keys() == WHY_NOT.keys() == {path.name for path in files if "_invalid_" in path.name}
    assert [name for name, reason in found.items() if not reason.startswith(WHY_NOT[name])] == []


def test_the_last_operation_of_a_log_makes_the_document_that_the_directory_gives(conformance: Path) -> None:
    did, entries = read_log(conformance / "plc" / "dart-audit_log_bsky.json")
    expected = orjson.loads((conformance / "did-docs" / "kawax-bsky-app-did.json").read_bytes())
    assert document_of(did, verify_log(did, entries)) == expected


def test_a_tombstone_makes_no_document(conformance: Path) -> None:
    did, entries = read_log(conformance / "plc" / "go-didplc" / "log_tombstone.json")
    last = verify_log(did, entries)
    assert last == entries[-1].operation
    assert document_of(did, last) is None and rotation_keys(last) == ()


def test_an_operation_that_undoes_a_tombstone_counts(conformance: Path) -> None:
    did, entries = read_log(conformance / "plc" / "go-didplc" / "log_nullified_tombstone.json")
    assert any(entry.operation["type"] == "plc_tombstone" and entry.nullified for entry in entries)
    assert document_of(did, verify_log(did, entries)) is not None


def test_old_operations_make_documents(conformance: Path) -> None:
    did, entries = read_log(conformance / "plc" / "go-didplc" / "log_legacy_dholms.json")
    document = document_of(did, entries[0].operation)
    found = parse_document(did, document)
    assert entries[0].operation["type"] == "create"
    assert (found.handle, found.pds, found.signing_key) == (
        "dan.bsky.social",
        "https://bsky.social",
        entries[0].operation["signingKey"],
    )
    assert did_of(entries[0].operation) == did


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda log: [replace(log[0], nullified=True), *log[1:]],
            "operation 1: it is marked as nullified, but was not",
        ),
        (lambda log: [replace(log[0], created_at="2023-05-12T04:53:57.057Z"), *log[1:]], "operation 2: it is older"),
        (lambda log: [replace(log[0], created_at="noon"), *log[1:]], "operation 1: the time at which it was accepted"),
        (lambda log: [replace(log[0], cid=log[1].cid), *log[1:]], "operation 1: its CID is not that of its content"),
        (lambda log: log[1:], "operation 1: the first operation follows another one"),
        (lambda log: [log[0], *log[2:]], "operation 2: it follows an operation that is not in the log"),
        (lambda log: [log[0], *log], "operation 2: it is a second first operation"),
        (lambda log: [], "the log is empty"),
        (lambda log: log * 3_000, "the log has more than 10,000 operations"),
    ],
)
def test_a_log_that_was_changed_is_not_valid(conformance: Path, change: Any, reason: str) -> None:
    did, entries = read_log(conformance / "plc" / "dart-audit_log_bsky.json")
    with pytest.raises(InvalidOperation, match=reason):
        verify_log(did, change(entries))


def test_any_changed_byte_of_an_operation_is_noticed(conformance: Path) -> None:
    did, entries = read_log(conformance / "plc" / "dart-audit_log_bsky.json")
    changed = {**entries[1].operation, "alsoKnownAs": ["at://bsky.apq"]}
    with pytest.raises(InvalidOperation, match="operation 2: its CID is not"):
        verify_log(did, [entries[0], replace(entries[1], operation=changed), *entries[2:]])
    with pytest.raises(InvalidOperation, match="operation 2: the operation's signature is by none"):
        forged = replace(entries[1], operation=changed, cid=operation_cid(changed))
        verify_log(did, [entries[0], forged, *entries[2:]])
    with pytest.raises(InvalidOperation, match="operation 1: the first operation's hash is that of another DID"):
        verify_log("did:plc:z72i7hdynmk6r22z27h6tvus", entries)


def test_signatures_of_both_curves_in_one_spelling(conformance: Path) -> None:
    for fixture in orjson.loads((conformance / "interop" / "crypto" / "signature-fixtures.json").read_bytes()):
        # The message is the DAG-CBOR of {"hello": "world"}: of an operation without its signature.
        signature = fixture["signatureBase64"].replace("+", "-").replace("/", "_")
        operation = {"hello": "world", "sig": signature}
        assert fixture["messageBase64"] == "oWVoZWxsb2V3b3JsZA"
        if fixture["validSignature"]:
            assert signer_of(operation, ["did:key:zunusable", KEY, P256_KEY, fixture["publicKeyDid"]]) == 3
            with pytest.raises(InvalidOperation, match="base64url without padding"):
                signer_of({**operation, "sig": signature + "=="}, [fixture["publicKeyDid"]])
        else:
            with pytest.raises(InvalidOperation):
                signer_of(operation, [fixture["publicKeyDid"]])


GOOD = {
    "type": "plc_operation",
    "rotationKeys": [KEY],
    "verificationMethods": {"atproto": KEY, "other": P256_KEY},
    "alsoKnownAs": ["at://a.test"],
    "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://pds.test"}},
    "prev": None,
    "sig": "",
}


def test_keys_of_both_curves_are_in_the_document() -> None:
    assert document_of(DID, GOOD) == {
        "@context": [
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1",
            "https://w3id.org/security/suites/secp256k1-2019/v1",
            "https://w3id.org/security/suites/ecdsa-2019/v1",
        ],
        "id": DID,
        "alsoKnownAs": ["at://a.test"],
        "verificationMethod": [
            {"id": f"{DID}#atproto", "type": "Multikey", "controller": DID, "publicKeyMultibase": KEY[8:]},
            {"id": f"{DID}#other", "type": "Multikey", "controller": DID, "publicKeyMultibase": P256_KEY[8:]},
        ],
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://pds.test"}],
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "plc_operation",
        {},
        {"type": 1},
        {"type": "plc_operations"},
        {"type": "create", "signingKey": KEY, "handle": 1, "service": "bsky.social"},
        {"type": "create", "handle": "a.test", "service": "bsky.social"},
        {**GOOD, "alsoKnownAs": None},
        {**GOOD, "alsoKnownAs": [1]},
        {**GOOD, "verificationMethods": []},
        {**GOOD, "verificationMethods": {"atproto": KEY[8:]}},
        {**GOOD, "services": None},
        {**GOOD, "services": {"atproto_pds": "https://pds.test"}},
        {**GOOD, "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer"}}},
        {**GOOD, "services": {"atproto_pds": {"type": 1, "endpoint": "https://pds.test"}}},
    ],
)
def test_what_is_no_operation_makes_no_document(value: object) -> None:
    with pytest.raises(InvalidOperation):
        document_of(DID, value)


def test_operations_that_can_not_be_signed_are_refused() -> None:
    with pytest.raises(InvalidOperation, match="can't be written as DAG-CBOR"):
        operation_cid({**GOOD, "more": 2**70})
    with pytest.raises(InvalidOperation, match="rotation keys"):
        rotation_keys({**GOOD, "rotationKeys": KEY})
    with pytest.raises(InvalidOperation, match="prev"):
        previous_of({**GOOD, "prev": 1})
    with pytest.raises(InvalidOperation, match="prev"):
        previous_of({"type": "plc_tombstone", "prev": None})


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=9), st.just(KEY)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "endpoint", "a", "\0"]), inner, max_size=3),
    ),
    max_leaves=6,
)
operations = st.builds(
    lambda changes: {**GOOD, **changes},
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(st.sampled_from(["create", "plc_tombstone"]), values),
            **dict.fromkeys((*GOOD, "signingKey", "recoveryKey", "handle", "service", "more"), values),
        },
    ),
)


@given(st.one_of(values, operations))
def test_any_value_is_an_operation_or_refused_with_a_reason(value: Any) -> None:
    for read in (partial(document_of, DID), rotation_keys, previous_of, operation_cid, partial(verify_first, DID)):
        try:
            found: Any = read(value)
        except InvalidOperation as error:
            assert str(error).isprintable()
        else:
            if isinstance(found, dict):
                document_json(parse_document(DID, found), found).encode()
