"""Addresses and prefixes from text; a ValueError says what is wrong and what to write."""

import re
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    NetmaskValueError,
)

_BAD_ADDRESS = (AddressValueError, NetmaskValueError, ValueError)


def ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text.strip())
    except AddressValueError as fault:
        hint = "; it has no prefix length here" if "/" in text else f" ({fault})"
        raise ValueError(f"{text!r} is not an IPv4 address{hint}") from None


def ipv6(text: str) -> IPv6Address:
    try:
        address = IPv6Address(text.strip())
    except AddressValueError as fault:
        hint = "; it has no prefix length here" if "/" in text else f" ({fault})"
        raise ValueError(f"{text!r} is not an IPv6 address{hint}") from None
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone index; leave %{address.scope_id} out")
    return address


def interface4(text: str) -> IPv4Interface:
    _needs_length(text, "192.0.2.1/24")
    try:
        return IPv4Interface(text.strip())
    except _BAD_ADDRESS:
        raise ValueError(f"{text!r} is not an IPv4 address with a prefix length, such as 192.0.2.1/24") from None


def interface6(text: str) -> IPv6Interface:
    _needs_length(text, "2001:db8:ffff::2/64")
    try:
        if "%" in text:  # a zone index, which ipaddress lets through
            raise ValueError
        return IPv6Interface(text.strip())
    except _BAD_ADDRESS:
        raise ValueError(f"{text!r} is not an IPv6 address with a prefix length, such as 2001:db8:ffff::2/64") from None


def network4(text: str) -> IPv4Network:
    _needs_length(text, "203.0.113.0/24")
    interface = interface4(text)
    if interface.ip != interface.network.network_address:
        raise ValueError(f"{text!r} has bits behind the prefix; write {interface.network}")
    return interface.network


def network6(text: str) -> IPv6Network:
    interface = interface6(text)
    if interface.ip != interface.network.network_address:
        raise ValueError(f"{text!r} has bits behind the prefix; write {interface.network}")
    return interface.network


def network(text: str) -> IPv4Network | IPv6Network:
    """A prefix of either family, or one address."""
    if "/" not in text:
        text = f"{any_address(text)}/{32 if ':' not in text else 128}"
    return network6(text) if ":" in text else network4(text)


def any_address(text: str) -> IPv4Address | IPv6Address:
    return ipv6(text) if ":" in text else ipv4(text)


def _needs_length(text: str, example: str) -> None:
    if not re.search(r"/[0-9]{1,3}$", text.strip()):
        raise ValueError(f"{text!r} has no prefix length; write it as in {example}")


def b4_address(text: str) -> IPv6Address | IPv6Network:
    """An address, or a prefix from which one is built (RFC 7596 section 5.1)."""
    return network6(text) if "/" in text else ipv6(text)
