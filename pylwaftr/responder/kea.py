"""Kea (2.2 and later) as the source of leases: the lines of its memfile lease database, and a script for its hook.

Kea leases whole addresses and keeps neither port sets nor tunnel addresses. So port sets come from a setting per
subnet, and the tunnel address from the lease's user-context ({"b4": "2001:db8::1"}), from the hook (the source address
of the DHCPv6 query, if that is a global one), or is built from a prefix (RFC 7596 section 5.1).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from pylwaftr.responder.database import Change
from pylwaftr.responder.encode import INFINITE

_DEFAULT, _DECLINED, _RECLAIMED, _RELEASED = "0", "1", "2", "3"


@dataclass(frozen=True, slots=True)
class Ports:
    offset: int
    psid_len: int
    psid: int

    @classmethod
    def of(cls, text: str) -> Ports:
        """As Kea writes option v4-portparams: "0, 3/6" is offset 0, PSID 3 of 6 bits."""
        try:
            offset, _, rest = text.partition(",")
            psid, _, psid_len = rest.partition("/")
            ports = cls(int(offset), int(psid_len), int(psid))
        except ValueError:
            raise ValueError(f"{text!r} is no port set; write OFFSET,PSID/LENGTH, such as 0,3/6") from None
        if not (0 <= ports.offset <= 15 and 0 <= ports.psid_len <= 16 - ports.offset):
            raise ValueError(f"{text!r}: offset and length are no division of 16 bits")
        if not 0 <= ports.psid < 1 << ports.psid_len:
            raise ValueError(f"{text!r}: the PSID does not fit {ports.psid_len} bits")
        return ports


@dataclass(slots=True)
class Leases:
    """Reads kea-leases4.csv line by line. A line is an event; the last one of an address counts."""

    ports: Mapping[str, Ports] = field(default_factory=dict)  # by subnet id
    b4_prefix: IPv6Network | None = None
    known_b4: dict[IPv4Address, IPv6Address] = field(default_factory=dict)  # told by the hook
    columns: list[str] = field(default_factory=list)

    def line(self, text: str, now: int) -> Change | None:
        """None: the header. Raises ValueError."""
        try:
            values = next(csv.reader([text]))
        except csv.Error as fault:
            raise ValueError(str(fault)) from None
        if values and values[0] == "address":
            self.columns = values
            return None
        if not self.columns:
            raise ValueError("a lease before the header line")
        told = dict(zip(self.columns, values, strict=False))
        missing = {"address", "client_id", "valid_lifetime", "expire", "subnet_id", "state"} - told.keys()
        if missing:
            raise ValueError(f"the line has no {', '.join(sorted(missing))}")
        ipv4 = IPv4Address(told["address"])
        lifetime, expire = int(told["valid_lifetime"]), int(told["expire"])
        ports = self.ports.get(told["subnet_id"], Ports(0, 0, 0))
        state = _state(told["state"], lifetime, expire, now)
        cltt = max(expire - lifetime, 0)
        client = bytes.fromhex(told["client_id"].replace(":", ""))
        return Change(
            at=cltt if state == "ACTIVE" else min(max(expire, cltt), now),
            ipv4=ipv4,
            state=state,
            offset=ports.offset,
            psid_len=ports.psid_len,
            psid=ports.psid,
            b4=self._b4(ipv4, ports, told.get("user_context", "")) if state == "ACTIVE" else None,
            client=client if len(client) > 1 else b"",
            lifetime=lifetime,
            cltt=cltt,
        )

    def _b4(self, ipv4: IPv4Address, ports: Ports, context: str) -> IPv6Address | None:
        if context:
            # Kea writes a comma of a value as &#x2c, for the file is of values with commas between.
            found = json.loads(context.replace("&#x2c", ","))
            if isinstance(found, dict) and "b4" in found:
                return IPv6Address(found["b4"])
        if ipv4 in self.known_b4:
            return self.known_b4[ipv4]
        if self.b4_prefix is None:
            return None
        identifier = int(ipv4) << 16 | ports.psid
        return IPv6Address(int(self.b4_prefix.network_address) | identifier & int(self.b4_prefix.hostmask))


def _state(state: str, lifetime: int, expire: int, now: int) -> str:
    if state == _DECLINED:
        return "ABANDONED"
    if state == _RECLAIMED:
        return "EXPIRED"
    if state == _RELEASED or lifetime == 0:
        return "RELEASED"
    return "ACTIVE" if expire > now or lifetime == INFINITE else "EXPIRED"


# For libdhcp_run_script, "sync": true. It appends to the journal; the environment is that of Kea 2.2.
HOOK = r"""#!/bin/sh
# Appends lease events of Kea to a journal for `pylwaftr leasequery-server --journal`.
JOURNAL="${LEASE_JOURNAL:-/var/lib/kea/leases.journal}"
PORTS="${LEASE_PORTS:-}"  # such as: "psid_len": 6, "psid": 3,
now=$(date +%s)
b4=
case "$QUERY4_REMOTE_ADDR" in
  fe80:*|FE80:*|::*|*.*|"") ;;
  *:*) b4="\"b4\": \"$QUERY4_REMOTE_ADDR\"," ;;
esac
put() {  # state address client lifetime cltt
  client=$(printf %s "$3" | tr -d :)
  line="{\"at\": $now, \"state\": \"$1\", \"ipv4\": \"$2\", $PORTS $b4 \"client\": \"$client\""
  [ -n "$4" ] && line="$line, \"lifetime\": $4"
  [ -n "$5" ] && line="$line, \"cltt\": $5"
  printf '%s}\n' "$line" >> "$JOURNAL"  # one write of less than PIPE_BUF octets is not torn
}
case "$1" in
  leases4_committed)
    n=0
    while [ "$n" -lt "${LEASES4_SIZE:-0}" ]; do
      eval "a=\$LEASES4_AT${n}_ADDRESS c=\$LEASES4_AT${n}_CLIENT_ID l=\$LEASES4_AT${n}_VALID_LIFETIME"
      eval "t=\$LEASES4_AT${n}_CLTT"
      put ACTIVE "$a" "$c" "$l" "$t"
      n=$((n + 1))
    done
    n=0
    b4=
    while [ "$n" -lt "${DELETED_LEASES4_SIZE:-0}" ]; do
      eval "a=\$DELETED_LEASES4_AT${n}_ADDRESS c=\$DELETED_LEASES4_AT${n}_CLIENT_ID"
      put RELEASED "$a" "$c" "" ""
      n=$((n + 1))
    done ;;
  lease4_renew) put ACTIVE "$LEASE4_ADDRESS" "$LEASE4_CLIENT_ID" "$LEASE4_VALID_LIFETIME" "$LEASE4_CLTT" ;;
  lease4_release) b4=; put RELEASED "$LEASE4_ADDRESS" "$LEASE4_CLIENT_ID" "" "" ;;
  lease4_expire) b4=; put EXPIRED "$LEASE4_ADDRESS" "$LEASE4_CLIENT_ID" "" "" ;;
  lease4_decline) b4=; put ABANDONED "$LEASE4_ADDRESS" "$LEASE4_CLIENT_ID" "" "" ;;
  lease4_recover) b4=; put AVAILABLE "$LEASE4_ADDRESS" "" "" "" ;;
esac
exit 0
"""
