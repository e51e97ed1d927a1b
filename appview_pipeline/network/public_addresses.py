"""Which IP addresses may be connected to when a stranger named the host: those of the public network, and no others.

What a document, a handle or a redirect names is a stranger's word. Without this check it could make us ask the cloud's
metadata service, a database's port, or another machine behind our firewall (server-side request forgery).

The tables of `ipaddress` differ between versions of Python, and its `is_global` is true for addresses that carry an
IPv4 address in them. So the blocks are listed here, from the registries of special addresses:
https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_REFUSED_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "of this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by the customers of a provider"),  # carrier-grade NAT, RFC 6598
    ("127.0.0.0/8", "of this machine"),
    ("169.254.0.0/16", "link-local"),  # the metadata services of clouds, among others
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.31.196.0/24", "reserved"),  # AS112
    ("192.52.193.0/24", "reserved"),  # AMT
    ("192.88.99.0/24", "reserved"),  # relays of 6to4, deprecated
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved"),  # AS112
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),  # with the broadcast address
)

_REFUSED_V6: tuple[tuple[str, str], ...] = (
    ("::1/128", "of this machine"),
    ("::/128", "of this network"),
    ("::/96", "an IPv4 address in disguise"),  # IPv4-compatible
    ("::ffff:0:0/96", "an IPv4 address in disguise"),  # IPv4-mapped
    ("::ffff:0:0:0/96", "an IPv4 address in disguise"),  # IPv4-translated, RFC 2765
    ("64:ff9b::/96", "an IPv4 address in disguise"),  # NAT64, RFC 6052
    ("64:ff9b:1::/48", "an IPv4 address in disguise"),  # NAT64 of one network, RFC 8215
    ("100::/64", "reserved"),  # discarded
    ("2001::/32", "an IPv4 address in disguise"),  # Teredo
    ("2001::/23", "reserved"),  # protocol assignments: ORCHID, benchmarks, AMT, ...
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "an IPv4 address in disguise"),  # 6to4
    ("2620:4f:8000::/48", "reserved"),  # AS112
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "reserved"),  # segment routing
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),  # site-local, deprecated
    ("ff00::/8", "multicast"),
)

_V4 = [(IPv4Network(block), what) for block, what in _REFUSED_V4]
_V6 = [(IPv6Network(block), what) for block, what in _REFUSED_V6]
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only block of IPv6 that public addresses are assigned from."""


def why_not_public(address: str | IPv4Address | IPv6Address) -> str | None:
    """What kind of address it is, if it is not one of the public network: `private`, `link-local`, ...; else None.

    An IPv6 address that carries an IPv4 address is refused whatever that is: some router on the way may translate it,
    and no server is only to be reached by it. Raises `ValueError` for text that is no address.
    """
    if isinstance(address, str):
        address = ip_address(address)
    if isinstance(address, IPv4Address):
        return next((what for block, what in _V4 if address in block), None)
    if address.scope_id is not None:
        return "of one link"
    what = next((what for block, what in _V6 if address in block), None)
    if what is None and address not in _GLOBAL_UNICAST:
        return "reserved"
    return what
