"""Handles checked over real sockets: what DNS and the web answer, and the reason that a person reads for each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from appview_pipeline.identity.handles import HandleCheck, check_handle, handle_problem, resolve_handle
from appview_pipeline.network.dns import Resolver
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings, load
from appview_pipeline_tests.simulated_network import SimulatedNetwork, World
from appview_pipeline_tests.simulated_network.dns_server import NO_SUCH_NAME, Records
from appview_pipeline_tests.simulated_network.http_service import Answer

SECONDS = 0.6
OTHER = "did:plc:" + "b" * 24


@dataclass
class Checks:
    """A network, an account of it, and what asks about it."""

    network: SimulatedNetwork
    settings: Settings
    client: Client
    resolver: Resolver
    did: str
    handle: str

    def check(self, handle: str | None = None) -> HandleCheck:
        return check_handle(self.client, self.resolver, self.did, self.handle if handle is None else handle)

    def txt(self, *texts: str | tuple[str, ...]) -> None:
        self.network.dns.records[f"_atproto.{self.handle}"] = Records(txt=texts)

    def web(self, answer: Answer) -> None:
        """The handle is on the web alone, which answers so."""
        self.network.dns.records[f"_atproto.{self.handle}"] = NO_SUCH_NAME
        self.network.pds.answers[self.handle] = answer

    @property
    def web_requests(self) -> int:
        return len(self.network.pds.requests)


def made(network: SimulatedNetwork, settings: Settings) -> Checks:
    account = network.world.authors[0].account
    return Checks(network, settings, Client(settings), Resolver(settings), account.did, account.handle)


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(6, 5, start=1_790_000_000, pasts=())) as network:
        yield network


@pytest.fixture
def checks(network: SimulatedNetwork) -> Iterator[Checks]:
    settings = replace(
        load(network.environment()), dns_seconds=SECONDS, fetch_seconds=2 * SECONDS, fetch_read_seconds=SECONDS
    )
    checks = made(network, settings)
    with checks.client:
        yield checks


# ---- verified


def test_dns_verifies_and_the_web_is_not_asked(checks: Checks) -> None:
    assert checks.check() == HandleCheck(checks.handle, True, checks.did, "dns", None, True)
    assert checks.check(checks.handle.upper()).handle == checks.handle
    assert checks.web_requests == 0


@pytest.mark.parametrize(
    "texts",
    [
        ("v=spf1 -all", "did=DID", "google-site-verification=x"),
        (("di", "d=DID"),),
        ("did=DID", "did=nonsense", "did=", "DID=did:plc:x", " did=did:plc:x"),
        (*(f"padding {number} {'x' * 90}" for number in range(299)), "did=DID"),
    ],
    ids=["others", "strings", "invalid ones", "300"],
)
def test_other_txt_records_do_not_matter(checks: Checks, texts: tuple[str | tuple[str, ...], ...]) -> None:
    checks.txt(
        *(
            tuple(part.replace("DID", checks.did) for part in text)
            if isinstance(text, tuple)
            else text.replace("did=DID", f"did={checks.did}")
            for text in texts
        )
    )
    assert checks.check().source == "dns"


@pytest.mark.parametrize(
    "body",
    ["DID", "DID\n", " DID \r\n", "\ufeffDID", "DID\nDID\n", "DID\n<html>"],
    ids=["bare", "line", "space", "byte order mark", "two lines", "more"],
)
def test_the_web_verifies_where_dns_names_nobody(checks: Checks, body: str) -> None:
    checks.web(Answer(body.replace("DID", checks.did).encode(), "text/html; charset=latin-1"))
    assert checks.check() == HandleCheck(checks.handle, True, checks.did, "https", None, True)


def test_redirects_are_followed_three_times(checks: Checks) -> None:
    base = f"http://{checks.handle}:{checks.network.pds.port}/"

    def redirect(to: str) -> Answer:
        return Answer(b"", "text/plain", 302, {"Location": to})

    answers = checks.network.pds.answers
    answers |= {"/1": redirect(f"{base}2"), "/2": redirect("3"), "/3": Answer(checks.did.encode())}
    checks.web(redirect(f"{base}1"))
    assert checks.check().verified
    answers |= {"/3": redirect("4"), "/4": Answer(checks.did.encode())}
    check = checks.check()
    assert not check.verified and check.is_final
    assert check.reason and check.reason.endswith("redirects more than 3 times")


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
def test_the_web_verifies_while_dns_is_in_trouble(checks: Checks, rcode: str) -> None:
    checks.network.dns.records[f"_atproto.{checks.handle}"] = Records(rcode=rcode)
    assert checks.check() == HandleCheck(checks.handle, True, checks.did, "https", None, True)


def test_a_handle_too_long_for_a_txt_record_is_verified_on_the_web(checks: Checks) -> None:
    handle = ".".join(["a" * 60] * 4) + ".test"
    assert 244 < len(handle) <= 253
    checks.network.world.point(handle, checks.did)
    assert checks.check(handle) == HandleCheck(handle, True, checks.did, "https", None, True)


# ---- not verified


@pytest.mark.parametrize("source", ["dns", "https"])
def test_who_is_named_instead_is_said(checks: Checks, source: str) -> None:
    if source == "dns":
        checks.txt(f"did={OTHER}")
        checks.network.pds.answers[checks.handle] = Answer(checks.did.encode())
    else:
        checks.web(Answer(OTHER.encode()))
    check = checks.check()
    where = "in DNS" if source == "dns" else "by HTTPS"
    reason = f"{checks.did} claims the handle, but {where} it names {OTHER}"
    assert check == HandleCheck(checks.handle, False, OTHER, source, reason, True)
    assert checks.web_requests == (source == "https"), "what DNS names counts"


def test_another_account_on_the_web_is_not_final_while_dns_is_in_trouble(checks: Checks) -> None:
    checks.web(Answer(OTHER.encode()))
    checks.network.dns.records[f"_atproto.{checks.handle}"] = Records(rcode="SERVFAIL")
    check = checks.check()
    assert not check.verified and not check.is_final
    assert check.reason and f"it names {OTHER} (no name server answers" in check.reason and "SERVFAIL" in check.reason


def test_two_accounts_in_dns_are_a_failure(checks: Checks) -> None:
    checks.txt(f"did={checks.did}", f"did={OTHER}")
    check = checks.check()
    assert (check.verified, check.did, check.source, check.is_final) == (False, None, None, True)
    assert check.reason and f"_atproto.{checks.handle} name 2 accounts, and only one is allowed" in check.reason
    assert checks.did in check.reason and OTHER in check.reason and checks.web_requests == 0
    checks.txt(*(f"did=did:plc:{number}" for number in range(300)))
    reason = checks.check().reason or ""
    assert "name 300 accounts" in reason and len(reason) < 300
    checks.txt(f"did={checks.did}", ("did=", checks.did))
    assert checks.check().verified, "the same twice is one"


@pytest.mark.parametrize(
    ("records", "is_final", "words"),
    [
        (NO_SUCH_NAME, True, "the name _atproto.HANDLE does not exist in DNS"),
        (Records(a=["192.0.2.1"]), True, "_atproto.HANDLE has no TXT record in DNS"),
        (Records(txt=["v=spf1"]), True, "no TXT record of _atproto.HANDLE begins with `did=`"),
        (Records(txt=["did=bob"]), True, "the TXT record of _atproto.HANDLE has 'bob' after `did=`, which is no DID"),
        (Records(txt=["did= did:plc:x"]), True, "has ' did:plc:x' after `did=`, which is no DID"),
        (Records(txt=["did=\n" + "é" * 200]), True, r"has '\n\xe9\xe9"),
        (Records(cname="_atproto.HANDLE"), True, "answers with aliases (CNAME) that lead in a circle"),
        (Records(rcode="SERVFAIL"), False, "no name server answers for _atproto.HANDLE: 127.0.0.1 port"),
        (Records(silent=True), False, f"no answer for _atproto.HANDLE from DNS within {SECONDS} s"),
        (Records(garbage=b"\xff" * 90), False, "no answer for _atproto.HANDLE from DNS"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_dns_answers_is_in_the_reason(checks: Checks, records: Records, is_final: bool, words: str) -> None:
    handle = checks.handle
    if records.cname:
        records = replace(records, cname=records.cname.replace("HANDLE", handle))
    checks.network.dns.records[f"_atproto.{handle}"] = records
    checks.network.world.point(handle, None)
    checks.network.dns.records[handle] = Records(a=["127.0.0.1"])
    check = checks.check()
    assert (check.verified, check.did, check.source, check.is_final) == (False, None, None, is_final)
    assert check.reason and words.replace("HANDLE", handle) in check.reason and check.reason.isascii()
    assert check.reason.endswith(f"; {checks.settings.well_known_url.format(handle=handle)} answers with status 404")


@pytest.mark.parametrize(
    ("answer", "is_final", "words"),
    [
        (Answer(b"<!DOCTYPE html><html>", "text/html"), True, "answers with a web page, not with a DID"),
        (Answer(b"\xef\xbb\xbf <html>", "text/plain"), True, "answers with a web page, not with a DID"),
        (Answer("did:plc:x".encode("utf-16")), True, "answers in UTF-16, not in UTF-8"),
        (Answer(b"bob"), True, "answers with 'bob', which is no DID"),
        (Answer(b'{"did":"did:plc:x"}'), True, """answers with '{"did":"did:plc:x"}', which is no DID"""),
        (Answer(b"\xff\x00\x1b[31m"), True, r"answers with '\ufffd\x00\x1b[31m', which is no DID"),
        (Answer(b"did:plc:" + b"x" * 3_000), True, "xxx'..., which is no DID"),
        (Answer(b""), True, "answers with an empty first line, not with a DID"),
        (Answer(b"\ndid:plc:x"), True, "answers with an empty first line, not with a DID"),
        (Answer(b"did:plc:x", status=404), True, "answers with status 404"),
        (Answer(b"did:plc:x", status=410), True, "answers with status 410"),
        (Answer(b"did:plc:x", status=500), False, "answered HTTP 500"),
        (Answer(b"x" * 10_000_000), True, "sends 10,000,000 bytes; 16,384 are allowed"),
        (Answer(b"did:plc:x\n", filled_to=10_000_000), True, "sends more than 16,384 bytes"),
        (Answer(b"did:plc:x", headers={"Content-Encoding": "gzip"}), True, "the content encoding gzip"),
        (Answer(b"", status=302), True, "redirects to nowhere"),
        (Answer(b"", status=302, headers={"Location": "ftp://x/"}), True, "ftp:// is not asked"),
        (Answer(hangs=True), False, "sent nothing for 0.6 s"),
        (Answer(b"did:plc:" + b"x" * 24, byte_seconds=0.1), False, "within"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_what_the_web_answers_is_in_the_reason(checks: Checks, answer: Answer, is_final: bool, words: str) -> None:
    checks.web(answer)
    began = time.monotonic()
    check = checks.check()
    assert time.monotonic() - began < checks.settings.fetch_seconds + 0.5
    assert (check.verified, check.did, check.source, check.is_final) == (False, None, None, is_final)
    assert check.reason and check.reason.startswith(f"the name _atproto.{checks.handle} does not exist in DNS; http://")
    assert words in check.reason and check.reason.isascii() and check.reason.isprintable()


def test_a_host_that_asks_to_wait(checks: Checks) -> None:
    checks.web(Answer(b"", status=429, headers={"Retry-After": "90"}))
    check = checks.check()
    assert check.reason and "429" in check.reason and not check.is_final
    assert check.retry_after == pytest.approx(90, abs=15) and not check.blames_account
    again = checks.check()
    assert not again.blames_account and again.retry_after and checks.web_requests == 1


def test_hosts_that_are_not_there(checks: Checks) -> None:
    records = checks.network.dns.records
    records["_atproto.gone.test"] = records["gone.test"] = NO_SUCH_NAME
    check = checks.check("gone.test")
    assert check.is_final and check.reason and "the name gone.test does not exist in DNS" in check.reason
    records["_atproto.closed.test"], records["closed.test"] = NO_SUCH_NAME, Records(a=["127.0.0.9"])
    check = checks.check("closed.test")
    assert not check.is_final and check.reason and "refuses the connection" in check.reason
    records["broken.test"] = Records(rcode="SERVFAIL")
    check = checks.check("broken.test")
    assert not check.is_final and check.reason and "SERVFAIL" in check.reason
    records["_atproto.half.test"], records["half.test"] = Records(rcode="SERVFAIL"), NO_SUCH_NAME
    assert not checks.check("half.test").is_final, "its TXT record may be there in a minute"


class Trusting(Client):
    """Asks for handles as for what the settings name."""

    def get(self, url: str, **options: Any) -> Any:
        return super().get(url, **{**options, "is_trusted": True})


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://169.254.169.254/latest/meta-data/", "the address 169.254.169.254 is"),
        ("https://inside.example.org/", "inside.example.org has the address 10.0.0.1, which is"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("http://example.org/", "http:// is not asked, only https://"),
        ("https://example.org:8443/", "port 8443 of example.org is not asked"),
    ],
)
def test_redirects_are_checked_like_everything(network: SimulatedNetwork, location: str, words: str) -> None:
    """The operator names the handle's own host here, so that it may be on this machine, and no private host else."""
    port, handle = network.pds.port, "alice.example.org"
    settings = replace(
        load(network.environment()),
        allow_private_hosts=False,
        plc_url=f"http://{handle}:{port}",
        fetch_seconds=SECONDS,
    )
    network.dns.records |= {
        handle: Records(a=["127.0.0.1"]),
        "inside.example.org": Records(a=["10.0.0.1"]),
        "example.org": Records(a=["127.0.0.1"]),
    }
    network.pds.answers[handle] = Answer(b"", status=302, headers={"Location": location})
    with Trusting(settings) as client:
        check = check_handle(client, Resolver(settings), OTHER, handle)
    assert len(network.pds.requests) == 1
    assert check.is_final and check.reason and words in check.reason


def test_one_that_hangs_holds_up_nobody(checks: Checks) -> None:
    checks.web(Answer(hangs=True))
    for author in checks.network.world.authors[1:]:
        began = time.monotonic()
        check = check_handle(checks.client, checks.resolver, author.did, author.account.handle)
        assert check.verified and time.monotonic() - began < 0.5


def test_whom_a_handle_names_can_be_asked_without_a_claim(checks: Checks) -> None:
    named = resolve_handle(checks.client, checks.resolver, checks.handle)
    assert (named.did, named.source, named.reason) == (checks.did, "dns", None)


# ---- syntax


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        ("alice.example.com.", "'alice.example.com.' ends with a dot"),
        ("älice.example.com", "letters beyond ASCII, which a handle writes as punycode"),
        ("\u212a.example.com", "letters beyond ASCII"),  # the sign of kelvin, whose small letter is k
        ("alice", "'alice' has no domain"),
        ("", "'' has no domain"),
        ("alice..com", "is no valid host name"),
        ("alice_b.com", "is no valid host name"),
        ("-alice.com", "is no valid host name"),
        ("alice.com/x", "is no valid host name"),
        ("alice.com:8443", "is no valid host name"),
        ("alice.com\n", "is no valid host name"),
        ("127.0.0.1", "is no valid host name"),
        ("169.254.169.254", "is no valid host name"),
        (".".join(["a" * 60] * 5), "has more than 253 characters"),
        ("a" * 64 + ".com", "is no valid host name"),
        ("handle.invalid", "the account has no handle at present"),
        *((f"alice.{domain}", f"ends in .{domain}, which is not for hosts of the public network")
          for domain in ("local", "arpa", "internal", "localhost", "onion", "invalid", "alt", "example", "test")),
        ("alice.LOCAL", "ends in .local"),
    ],
)  # fmt: skip
def test_what_is_no_handle_is_not_asked(network: SimulatedNetwork, handle: str, words: str) -> None:
    settings = replace(load(network.environment()), allow_private_hosts=False)
    checks = made(network, settings)
    with checks.client:
        check = checks.check(handle)
    assert not check.verified and check.is_final and check.reason and words in check.reason and check.reason.isascii()
    assert not network.dns.requests and not network.pds.requests


@pytest.mark.parametrize("handle", ["Alice.Example.COM", "xn--ls8h.la", "a.co", "john.test", "1.2.3.a4", "a--b.com"])
def test_what_is_a_handle(handle: str) -> None:
    assert handle_problem(handle, Settings(allow_private_hosts=True)) is None


def test_txt_records_of_others(conformance: Path, checks: Checks) -> None:
    records = orjson.loads((conformance / "did-docs" / "txt_records.json").read_bytes())
    cases = [*records["real"], *records["edge_cases"]]
    assert len(cases) >= 7
    checks.web(Answer(b"no DID", status=404))
    for case in cases:
        checks.txt(*case["txt"])
        named = resolve_handle(checks.client, checks.resolver, checks.handle)
        assert (named.did, named.source) == (case["did"], "dns" if case["did"] else None), case
        assert named.is_final and (named.reason is None) == (case["did"] is not None)


@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_the_interop_files(conformance: Path, kind: str) -> None:
    """Their valid ones have reserved top-level domains too, which are valid as text."""
    text = (conformance / "interop" / "syntax" / f"handle_syntax_{kind}.txt").read_text(encoding="utf-8")
    handles = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len(handles) > 20
    for handle in handles:
        problem = handle_problem(handle, Settings())
        if kind == "valid":
            assert problem is None or "not for hosts of the public network" in problem, handle
        else:
            assert problem is not None, handle
