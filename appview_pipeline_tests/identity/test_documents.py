"""DID documents: those of others, hostile ones, and any that can be thought of."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.identity.documents import (
    MAX_ENTRIES,
    MAX_PROBLEMS,
    MAX_STORED_BYTES,
    Document,
    InvalidDocument,
    document_json,
    parse_document,
    read_json,
)
from appview_pipeline.protocol.signing import parse_did_key
from appview_pipeline.protocol.syntax import is_handle
from appview_pipeline.store.database import Database

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
KEY = "zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF"
OTHER_KEY = "zQ3shQo6TF2moaqMTrUZEM1jeuYRQXeHEx4evX9751y2qPqRA"
P256_KEY = "zDnaet3CLvFwasyRn1qaCJec6XDqh2pXE4fUoJpG19H9xauUf"


def method(name: str = "#atproto", key: Any = KEY, kind: Any = "Multikey", controller: Any = DID) -> dict[str, Any]:
    return {"id": name, "type": kind, "controller": controller, "publicKeyMultibase": key}


def service(
    endpoint: Any = "https://pds.test", name: Any = "#atproto_pds", kind: Any = "AtprotoPersonalDataServer"
) -> dict[str, Any]:
    return {"id": name, "type": kind, "serviceEndpoint": endpoint}


def document(**changes: Any) -> dict[str, Any]:
    """A document without a problem, with changes."""
    return {
        "id": DID,
        "alsoKnownAs": ["at://a.test"],
        "verificationMethod": [method()],
        "service": [service()],
        **changes,
    }


def parse(**changes: Any) -> Document:
    return parse_document(DID, document(**changes))


def test_the_document_of_an_ordinary_account_has_no_problem() -> None:
    assert parse() == Document(DID, "a.test", "https://pds.test", f"did:key:{KEY}")


def test_documents_of_others(conformance: Path) -> None:
    found = {}
    for path in sorted((conformance / "did-docs").glob("*.json")):
        value = read_json(path.read_bytes())
        assert isinstance(value, dict)
        if "id" in value:
            found[path.stem] = parse_document(value["id"], value, plain_http=True)
            assert orjson.loads(document_json(found[path.stem], value)) == value
    # The old forms of the keys are those of today's documents.
    assert found["indigo-did_plc_doc_legacy"] == found["indigo-did_plc_doc"]
    assert found["indigo-fakermaker.didDoc"].signing_key == "did:key:zDnaekeJgyxPS3XehTLzowCTstPmcua1vLaAAF3qyLP6sND38"
    assert found["indigo-fakermaker.didDoc"].pds == "http://localhost:2583"
    assert found["moderation-bsky-app"].labeler == "https://mod.bsky.app"
    assert found["moderation-bsky-app"].labeler_key == "did:key:zQ3shmV1BNcX17coaDbfen6zArEad6SCLT3jVWCbC6Y9iinTa"
    with_problems = {name for name, it in found.items() if it.problems}
    assert len(found) == 11 and with_problems == {"indigo-did_web_doc"}
    assert len(found["indigo-did_web_doc"].problems) == 3  # no handle, no key, no PDS


def test_documents_of_the_corpus_have_no_problems(conformance: Path) -> None:
    import zstandard

    packed = (conformance / "frames" / "jetstream-corpus" / "did_docs.json.zst").read_bytes()
    documents = orjson.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    found = [parse_document(did, value) for did, value in documents.items()]
    assert len(found) > 100
    assert [it for it in found if not (it.handle and it.pds and it.signing_key) or it.problems] == []


# ----------------------------------------------------------------------------------------------------------------------
# Handles


@pytest.mark.parametrize(
    ("names", "handle", "problem"),
    [
        (["at://a.test"], "a.test", None),
        (["https://a.test", "at://a.test"], "a.test", None),
        (["at://a.test", "at://b.test"], "a.test", None),
        (["at://A.Test"], "a.test", "the handle is written 'A.Test', and read as a.test"),
        (["at://a.test."], "a.test", "the handle is written 'a.test.', and read as a.test"),
        (["at://xn--bcher-kva.example"], "xn--bcher-kva.example", None),
        (["at://b\u00fccher.example"], None, "letters beyond ASCII have to be written as punycode"),
        (["at://\u212aa.test"], None, "letters beyond ASCII"),  # the Kelvin sign: in small letters it is a k
        (["at://a.test.."], None, "'a.test..' is no valid handle"),
        (["at://a.test/path", "at://b.test"], "b.test", "nothing may follow the name of the host"),
        (["at://localhost"], None, "it has no domain"),
        (["at://did:plc:ewvi7nxzyoun6zhxrhs64oiz"], None, "it is a DID"),
        (["at://a.test\n"], None, "'a.test\\n' is no valid handle"),
        (["at://a\0.test"], None, "'a\\x00.test' is no valid handle"),
        (["at://\ud800.test"], None, "'\\ud800.test' is no valid handle"),
        (["at://1.2.3.4"], None, "is no valid handle"),
        (["at://" + "a." * 130 + "test"], None, "is no valid handle"),
        (["at://" + "a" * 10_000_000], None, "is no valid handle"),
        ([1, None, {}, "at://a.test"], "a.test", "an entry that is a number, not text"),
        ("at://a.test", None, "`alsoKnownAs` is text, not a list"),
        ({}, None, "`alsoKnownAs` is an object, not a list"),
        (["https://a.test"] * MAX_ENTRIES + ["at://a.test"], None, "of which the first 1,000 are looked at"),
        ([], None, "the document names no handle that can be used"),
        (None, None, "the document names no handle that can be used"),
    ],
)
def test_the_first_valid_handle_counts(names: Any, handle: str | None, problem: str | None) -> None:
    found = parse(alsoKnownAs=names)
    assert found.handle == handle
    assert (problem is None) == (not found.problems)
    assert problem is None or problem in found.problems[0]


# ----------------------------------------------------------------------------------------------------------------------
# Keys


@pytest.mark.parametrize(
    ("methods", "key", "problem"),
    [
        ([method(f"{DID}#atproto")], KEY, None),
        ([method("#atproto_label", OTHER_KEY), method()], KEY, None),
        ([method(), method(key=OTHER_KEY)], KEY, None),
        ([method(key=P256_KEY)], P256_KEY, None),
        ([{key: value for key, value in method().items() if key != "controller"}], KEY, None),
        ([method(key="zbroken"), method(key=OTHER_KEY)], OTHER_KEY, "the key #atproto can't be used"),
        ([method(kind="Ed25519VerificationKey2020")], None, "of the unknown type 'Ed25519VerificationKey2020'"),
        ([method(key="z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")], None, "of another kind than secp256k1"),
        ([method(key="zQ3sh" + "x" * 10_000_000)], None, "not in base58"),
        ([method(key="\ud800")], None, "not in base58"),
        ([method(key=None)], None, "no `type` or no `publicKeyMultibase`"),
        ([method(kind={})], None, "no `type` or no `publicKeyMultibase`"),
        ([method(controller="did:plc:somebodyelse")], None, "controlled by 'did:plc:somebodyelse'"),
        ([method(controller=7)], None, "controlled by a number"),
        ([method("did:plc:somebodyelse#atproto")], None, "no signing key"),
        ([method("atproto")], None, "no signing key"),
        ([7, [], None, method()], KEY, "an entry that is a number, not an object"),
        (method(), None, "`verificationMethod` is an object, not a list"),
        (None, None, "the document has no signing key that can be used"),
    ],
)
def test_the_first_valid_key_counts(methods: Any, key: str | None, problem: str | None) -> None:
    found = parse(verificationMethod=methods)
    assert found.signing_key == (key and f"did:key:{key}")
    assert found.labeler_key == (f"did:key:{OTHER_KEY}" if "_label" in str(methods) else None)
    assert (problem is None) == (not found.problems)
    assert problem is None or problem in found.problems[0]


def test_the_old_kinds_of_keys(conformance: Path) -> None:
    for fixture in orjson.loads((conformance / "interop" / "crypto" / "signature-fixtures.json").read_bytes()):
        key = method(kind=fixture["didDocSuite"], key=fixture["publicKeyMultibase"])
        assert parse(verificationMethod=[key]).signing_key == fixture["publicKeyDid"]


# ----------------------------------------------------------------------------------------------------------------------
# Services


@pytest.mark.parametrize(
    ("endpoint", "pds", "problem"),
    [
        ("https://pds.test/", "https://pds.test", None),
        ("HTTPS://PDS.Test:443", "https://pds.test", None),
        ("https://PDS.Test", "https://pds.test", None),
        ("https://pds.test.", "https://pds.test", None),
        ("https://pds.test:8443", "https://pds.test:8443", None),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example", None),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]", None),
        ("https://192.0.2.1", "https://192.0.2.1", None),
        ("https://pds.test/xrpc?a#b", "https://pds.test", "of which only https://pds.test counts"),
        ("http://pds.test", None, "is without TLS"),
        ("https://user:word@pds.test", None, "a user or a password in it"),
        ("https://@pds.test", None, "a user or a password in it"),
        ("https://pds.test:0", None, "no valid port"),
        ("https://pds.test:70000", None, "no valid host"),
        ("https://", None, "no valid host"),
        ("https://pds..test", None, "no valid host"),
        ("https://-pds.test", None, "no valid host"),
        ("https://0x7f000001", None, "no valid host"),
        ("https://127.1", None, "no valid host"),
        ("https://2130706433", None, "no valid host"),
        ("https://[::1%25eth0]", None, "no valid host"),
        ("https://[::1", None, "no valid host"),
        ("https://" + "a." * 200 + "test", None, "no valid host"),
        ("https://\u3002/", None, "no valid host"),
        ("https://pds.test\\@evil.test", None, "is not an https URL"),
        ("https://pds.test\n", None, "is not an https URL"),
        ("https://pds.\0test", None, "is not an https URL"),
        (" https://pds.test", None, "is not an https URL"),
        ("ftp://pds.test", None, "is not an https URL"),
        ("pds.test", None, "is not an https URL"),
        ("https:pds.test", None, "is not an https URL"),
        ("", None, "is not an https URL"),
        ("https://" + "a" * 10_000_000, None, "10,000,008 characters"),
        ({"uri": "https://pds.test"}, None, "it is an object, not text"),
        (None, None, "it is null, not text"),
    ],
)
def test_the_address_of_a_pds_is_an_origin(endpoint: Any, pds: str | None, problem: str | None) -> None:
    found = parse(service=[service(endpoint)])
    assert found.pds == pds
    assert (problem is None) == (not found.problems)
    assert problem is None or problem in found.problems[0]


def test_addresses_that_are_work_to_read_cost_little() -> None:
    services = [service("https://" + "\xe9." * 900)] * 130
    began = time.process_time()
    assert parse(service=services).pds is None
    assert time.process_time() - began < 0.5


def test_services_without_tls_count_in_closed_networks() -> None:
    value = document(service=[service("http://Localhost:80/"), service("http://b.test")])
    assert parse_document(DID, value, plain_http=True).pds == "http://localhost"
    value = document(service=[service("http://127.0.0.1:2583")])
    assert parse_document(DID, value, plain_http=True).pds == "http://127.0.0.1:2583"


@pytest.mark.parametrize(
    ("services", "pds", "problem"),
    [
        ([service(), service("https://b.test")], "https://pds.test", "more than one service #atproto_pds"),
        ([service(kind="Other"), service("https://b.test")], "https://b.test", "is of the type 'Other'"),
        ([service("nowhere"), service("https://b.test")], "https://b.test", "'nowhere' is not an https URL"),
        ([service(name=f"{DID}#atproto_pds")], "https://pds.test", None),
        ([service(name="#pds")], None, "the document names no PDS"),
        ([service(name=7)], None, "the document names no PDS"),
        ([7, service()], "https://pds.test", "an entry that is a number"),
        ("https://pds.test", None, "`service` is text, not a list"),
        ([], None, "the document names no PDS"),
    ],
)
def test_the_first_valid_pds_counts(services: Any, pds: str | None, problem: str | None) -> None:
    found = parse(service=services)
    assert found.pds == pds
    assert (problem is None) == (not found.problems)
    assert problem is None or problem in found.problems[0]


def test_a_label_service_and_its_key() -> None:
    labeler = service("https://mod.test", "#atproto_labeler", "AtprotoLabeler")
    keys = [method(), method("#atproto_label", OTHER_KEY)]
    found = parse(service=[labeler, service()], verificationMethod=keys)
    assert found == Document(
        DID, "a.test", "https://pds.test", f"did:key:{KEY}", "https://mod.test", f"did:key:{OTHER_KEY}"
    )
    without_key = parse(service=[labeler, service()])
    assert (without_key.labeler, without_key.labeler_key) == ("https://mod.test", None)
    assert without_key.problems == ("the document names a label service, but no key for its labels (#atproto_label)",)


# ----------------------------------------------------------------------------------------------------------------------
# What is no document


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the document is null, not a JSON object"),
        ([], "the document is a list"),
        ("text", "the document is text"),
        (True, "the document is true or false"),
        (1.5, "the document is a number"),
        ({}, "does not name its DID"),
        ({"id": 7}, "does not name its DID"),
        ({"id": DID.upper()}, "the document is of another DID, 'DID:PLC:"),
        ({"id": DID + "\n"}, "the document is of another DID"),
        ({"id": "\ud800"}, re.escape("the document is of another DID, '\\ud800'")),
        ({"id": "x" * 10_000_000}, "the document is of another DID, 'x{100}'\\.\\.\\.$"),
    ],
)
def test_a_value_that_is_no_document_of_the_did(value: object, reason: str) -> None:
    with pytest.raises(InvalidDocument, match=reason):
        parse_document(DID, value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the answer is empty"),
        (b"\xef\xbb\xbf \n", "the answer is empty"),
        (b"<!DOCTYPE html><html>", "the answer is a web page, not JSON"),
        (b"  <html>", "the answer is a web page, not JSON"),
        (b"did:plc:a", "the answer is not JSON"),
        (b'{"id": "\xff"}', "the answer is not JSON"),
        (b'{"id": "\\ud800"}', "the answer is not JSON"),
        (b'{"id": NaN}', "the answer is not JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "the answer is not JSON: depth limit"),
        (b'{"a":' * 10_000, "the answer is not JSON"),
    ],
)
def test_a_body_that_is_no_json(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidDocument, match=reason):
        read_json(body)


def test_a_byte_order_mark_and_equal_keys_are_read() -> None:
    assert read_json(b'\xef\xbb\xbf{"id": 1, "id": 2}') == {"id": 2}


# ----------------------------------------------------------------------------------------------------------------------
# What is stored


def deep(levels: int) -> object:
    value: object = "the end"
    for _ in range(levels):
        value = [value]
    return value


LARGE: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    ("large", lambda: document(more="x" * MAX_STORED_BYTES)),
    ("deep", lambda: document(more=deep(300))),
    ("NUL", lambda: document(more="\0")),
    ("NUL in a key", lambda: document(**{"mo\0re": 1})),
    ("surrogate", lambda: document(more="\ud800")),
    ("large number", lambda: document(more=10**400)),
]


@pytest.mark.parametrize("value", [value for _, value in LARGE], ids=[name for name, _ in LARGE])
def test_a_document_that_can_not_be_stored_is_reduced_to_what_was_read(value: Callable[[], dict[str, Any]]) -> None:
    found = parse_document(DID, value())
    stored = document_json(found, value())
    assert len(stored) < 2_000
    assert parse_document(DID, read_json(stored.encode())) == found


def test_the_last_bytes_before_the_limit_are_stored_as_they_came() -> None:
    rest = MAX_STORED_BYTES - len(orjson.dumps(document(more="")))
    for value, as_it_came in ((document(more="x" * rest), True), (document(more="x" * (rest + 1)), False)):
        stored = document_json(parse_document(DID, value), value)
        assert (len(stored) == MAX_STORED_BYTES, orjson.loads(stored) == value) == (as_it_came, as_it_came)


# ----------------------------------------------------------------------------------------------------------------------
# Any document

texts = st.one_of(
    st.text(st.characters(), max_size=20),  # surrogates and U+0000 included
    st.sampled_from(
        [
            *("at://a.test", "at://A.B.", "https://a.test", "http://a.test/x", "#atproto", "#atproto_pds"),
            *("#atproto_label", "#atproto_labeler", f"{DID}#atproto", "AtprotoPersonalDataServer", "AtprotoLabeler"),
            *("Multikey", "EcdsaSecp256k1VerificationKey2019", KEY, OTHER_KEY, P256_KEY, DID, "did:key:" + KEY),
        ]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def objects(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.one_of(texts, values) for name in names})


documents = st.fixed_dictionaries(
    {"id": st.just(DID)},
    optional={
        "alsoKnownAs": st.one_of(values, st.lists(texts, max_size=4)),
        "verificationMethod": st.one_of(
            values, st.lists(objects("id", "type", "controller", "publicKeyMultibase"), max_size=4)
        ),
        "service": st.one_of(values, st.lists(objects("id", "type", "serviceEndpoint"), max_size=4)),
        "more": values,
    },
)


@given(st.one_of(values, documents), st.booleans())
def test_of_any_value_only_what_is_valid_is_given(value: object, plain_http: bool) -> None:
    try:
        found = parse_document(DID, value, plain_http=plain_http)
    except InvalidDocument as error:
        str(error).encode()
        return
    assert found.did == DID and len(found.problems) <= MAX_PROBLEMS
    assert found.handle is None or (is_handle(found.handle) and found.handle == found.handle.lower())
    for key in (found.signing_key, found.labeler_key):
        assert key is None or parse_did_key(key).did_key() == key
    for origin in (found.pds, found.labeler):
        assert origin is None or re.fullmatch(rf"http{'s?' if plain_http else 's'}://[a-z0-9._\[\]:-]+", origin)
    for problem in found.problems:
        assert problem.isprintable() and len(problem) < 1_000
        problem.encode()
    stored = document_json(found, value)
    assert "\\u0000" not in stored and "\0" not in stored
    again = parse_document(DID, orjson.loads(stored), plain_http=plain_http)
    assert all(getattr(again, it.name) == getattr(found, it.name) for it in fields(found) if it.name != "problems")


def test_postgresql_stores_what_is_to_be_stored(database: Database) -> None:
    """Also a document just below the depth from which it is reduced."""
    values = [
        document(),
        *(make() for _, make in LARGE),
        document(more=deep(240)),
        document(more="\\u0000"),
        document(more=1e300),
    ]
    stored = [document_json(parse_document(DID, value), value) for value in values]
    with database.connect("writer") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(doc::jsonb) FROM unnest(%s) AS doc", (stored,))
        assert cursor.fetchone() == (len(values),)
