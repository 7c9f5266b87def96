"""Text to one value; a ValueError says what is wrong and what to write."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from pylwaftr.addresses import ipv4, ipv6

_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}", re.ASCII)
_PCI = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7])(,.*)?", re.ASCII)
_VDEV = re.compile(r"(?:net|eth)_[A-Za-z0-9_]+(?:,.*)?", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)


def mac(text: str) -> bytes:
    if not _MAC.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a MAC address; write six octets, such as 02:00:00:00:04:01")
    octets = bytes.fromhex(re.sub("[:-]", "", text.strip()))
    if octets[0] & 1:
        raise ValueError(f"{text!r} is a group address; a station's has an even first octet")
    if not any(octets):
        raise ValueError(f"{text!r} is nobody's MAC address")
    return octets


def device(text: str) -> str:
    """The DPDK device of a port: PCI addresses in their full form, others as they are."""
    text = text.strip()
    pci = _PCI.fullmatch(text)
    if pci:
        return f"{(pci[1] or '0000').lower()}:{pci[2].lower()}{pci[3] or ''}"
    # Names of other buses hold a colon or are UUIDs (auxiliary:…, fslmc:…, vmbus): DPDK judges those itself.
    if _VDEV.fullmatch(text) or (":" in text and "," not in text.split(":")[0]) or text.count("-") >= 4:
        return text
    raise ValueError(
        f"{text!r} is neither a PCI address such as 0000:81:00.0 nor a DPDK device such as net_af_packet0,iface=NAME"
    )


def dscp(text: str) -> int | None:
    """None = copy."""
    if text == "copy":
        return None
    found = re.fullmatch(r"pipe:(\d{1,2}|0x[0-9a-fA-F]{1,2})", text, re.ASCII)
    if not found or int(found[1], 0 if found[1].startswith("0x") else 10) > 63:
        raise ValueError(f"is {text!r}; write copy or pipe:<0 to 63>")
    return int(found[1], 0 if found[1].startswith("0x") else 10)


def port_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """`0-1023,5350` as ((0, 1023), (5350, 5350))."""
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part, re.ASCII)
        if not found:
            raise ValueError(f'{text!r} is not a list of ports and ranges, such as "0-1023,5350"')
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high or high > 65535:
            raise ValueError(f"{part.strip()!r} is not a range of ports within 0-65535, the lower port first")
        ranges.append((low, high))
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port of a listener or a peer."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(text: str) -> Endpoint:
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    good_port = re.fullmatch(r"\d{1,5}", port, re.ASCII) and 1 <= int(port) <= 65535
    if bracketed:
        host = str(ipv6(host[1:-1]))
    if not colon or not good_port or not (bracketed or _HOST.fullmatch(host)):
        raise ValueError(f"{text!r} is not host:port; write 127.0.0.1:50051 or [::1]:50051")
    if re.fullmatch(r"[0-9.]+", host):
        ipv4(host)
    return Endpoint(host, int(port))


def host(text: str) -> str:
    """An address or a name."""
    text = text.strip()
    if ":" in text:
        return str(ipv6(text))
    if re.fullmatch(r"[0-9.]+", text):
        return str(ipv4(text))
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is neither an address nor a host name")
    return text
