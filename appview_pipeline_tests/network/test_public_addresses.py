from __future__ import annotations

import ipaddress
import random

import pytest

from appview_pipeline.network.public_addresses import why_not_public

REFUSED = {
    "this machine": "127.0.0.1 127.255.255.254 ::1",
    "this network": "0.0.0.0 0.1.2.3 ::",
    "private": "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 fc00::1 fdff::1 fec0::1",
    "link-local": "169.254.169.254 169.254.0.0 fe80::1 febf::1",
    "customers of a provider": "100.64.0.0 100.127.255.255",
    "multicast": "224.0.0.1 239.255.255.255 ff02::1 ff0e::1",
    "reserved": "192.0.0.1 192.0.0.170 192.88.99.1 240.0.0.1 255.255.255.255 100::1 2001:10::1 5f00::1 4000::1",
    "documentation": "192.0.2.1 198.51.100.7 203.0.113.255 2001:db8::1 3fff::1",
    "benchmarks": "198.18.0.1 198.19.255.255",
    # IPv4-mapped, IPv4-compatible, IPv4-translated, NAT64, 6to4, Teredo; of public addresses too
    "disguise": "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 "
    "64:ff9b::8.8.8.8 64:ff9b:1::a00:1 2002:7f00:1::1 2002:808:808::1 2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "one link": "fe80::1%eth0 2606:4700::1%1",
}
PUBLIC = (
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 "
    "169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 "
    "2606:4700:4700::1111 2a00:1450:4001:80f::200e 2001:4860:4860::8888 2400:cb00::1 2003::1 3ffe:ffff::1"
)


@pytest.mark.parametrize(("what", "address"), [(what, one) for what, all_ in REFUSED.items() for one in all_.split()])
def test_addresses_that_are_not_public_are_refused(what: str, address: str) -> None:
    assert what in (why_not_public(address) or "public")


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_not(address: str) -> None:
    assert why_not_public(address) is None


def test_nothing_is_public_that_the_standard_library_knows_to_be_special() -> None:
    draw = random.Random(1)
    for _ in range(20_000):
        address = ipaddress.IPv4Address(draw.getrandbits(32))
        if not address.is_global or address.is_multicast or address.is_reserved:
            assert why_not_public(address) is not None, address
        six = ipaddress.IPv6Address(draw.getrandbits(128) >> draw.choice((0, 1, 2, 3, 64, 96)))
        if not six.is_global or six.is_multicast or six.is_reserved or six.is_site_local:
            assert why_not_public(six) is not None, six


def test_text_that_is_no_address_is_no_public_one() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        why_not_public("0x7f000001")
