"""Internet addresses that a catalogue may lead to: none of the local machine or network, unless allowed."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from ..errors import ImageFailure

_NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are the IPv4 address that is reached
_UNICAST = IPv6Network("2000::/3")  # all that is handed out for the public internet
_SPECIAL = (  # where some versions of Python see public addresses
    *(IPv4Network("192.0.0.0/24"), IPv6Network("3fff::/20")),
    IPv4Network("168.63.129.16/32"),  # a cloud's own services
)


class Address(NamedTuple):
    """What a socket connects to."""

    family: int
    sockaddr: tuple[Any, ...]


def resolve(host: str, port: int, allow_private: bool) -> list[Address]:
    """The addresses of `host` that may be connected to, in the resolver's order, at least one.

    A host may be a literal address of any form. Raises ImageFailure where all are private; OSError where
    the host has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
    public = [address for address in addresses if allow_private or is_public(str(address.sockaddr[0]))]
    if not public:
        raise ImageFailure(
            "refused", f"{host} is an address of this machine or network; catalog.allow_private allows these"
        )
    return public


def is_public(literal: str) -> bool:
    """Whether an address is one of the internet's: not private, loopback, link-local, multicast, reserved."""
    address = ip_address(literal.partition("%")[0])  # without the interface of a link-local address
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_public(str(embedded))
        if address not in _UNICAST:
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that is reached by way of this one: mapped, translated (NAT64) or tunnelled (6to4)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
