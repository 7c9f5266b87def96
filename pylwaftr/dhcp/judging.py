"""What one lease message means for its key, before any other is looked at: installed, ended, or kept out and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp.codec_lease import Has, LeaseRows, State
from pylwaftr.dhcp.policies import Policy
from pylwaftr.dhcp.records import ACTIVE, GONE, QUARANTINED, Claims, Mask, Slots, Verdicts, unusable
from pylwaftr.dhcp.winners import Outcome, Winners
from pylwaftr.rows import text4

REASONS = {  # a stable name, and for people
    "no_b4": "the message has no tunnel address (option 109)",
    "bad_b4": "its tunnel address cannot be a B4's",
    "own_address": "its address is the router's own, or the PCP server's",
    "outside_pools": "its address is in no pool of this server",
    "psid_offset": "its port set has a PSID offset, which is not accepted of this server (accept_psid_offset)",
}


class Judge:
    def __init__(self, br: bytes, own: Sequence[bytes], own_v4: Collection[int] = ()) -> None:
        """`own`: tunnel addresses that no B4 can have, beside the BR's; `own_v4`: addresses that no lease can have."""
        self.own = np.array([list(address) for address in (br, *own)], np.uint8).reshape(-1, 16)
        self._own_v4 = tuple(own_v4)

    def verdicts(self, winners: Winners, number: int, policy: Policy, rows: LeaseRows, out: Outcome) -> Verdicts:
        active = rows["state"] == State.ACTIVE
        verdict = np.where(active, ACTIVE, GONE).astype(np.uint8)
        for name, bad in self.reasons(policy, rows).items():
            for row in rows[active & bad]:
                text = f"the lease of {text4(int(row['ipv4']))} cannot be programmed: {REASONS[name]}"
                winners.report(out, name, number, text)
            verdict[active & bad] = QUARANTINED
        return verdict

    def reasons(self, policy: Policy, rows: LeaseRows) -> Mapping[str, Mask]:
        """Where each of `REASONS` would keep an active lease out."""
        no_b4 = rows["has"] & int(Has.B4) == 0
        bad_b4 = ~no_b4 & unusable(rows["b4"], self.own)
        offset = (rows["psid_offset"] != 0) & (not policy.offsets)
        return {
            "no_b4": no_b4,
            "bad_b4": bad_b4,
            "own_address": self.of_router(rows),
            "outside_pools": _outside(policy, rows),
            "psid_offset": offset,
        }

    def of_router(self, rows: LeaseRows) -> Mask:
        """Where the address is not a subscriber's."""
        ipv4 = rows["ipv4"]
        found = np.zeros(len(rows), np.bool_)
        for address in self._own_v4:
            found |= ipv4 == address
        return found


def _outside(policy: Policy, rows: LeaseRows) -> Mask:
    ipv4 = rows["ipv4"]
    outside: Mask = ipv4 & np.uint32(0xFFFFFFF8) == 0xC0000000  # 192.0.0.0/29 stays inside tunnels (RFC 7335 section 4)
    if policy.pools:
        inside = np.zeros(len(rows), np.bool_)
        for pool in policy.pools:
            inside |= ipv4 & np.uint32(int(pool.netmask)) == int(pool.network_address)
        outside |= ~inside
    return outside


def pools_of(policy: Policy) -> npt.NDArray[np.uint32]:
    """Network and mask of each, as the compiled way takes them."""
    pools = [[int(pool.network_address), int(pool.netmask)] for pool in policy.pools]
    return np.array(pools, np.uint32).reshape(-1, 2)


def keeps(claims: Claims, slots: Slots, rows: LeaseRows, verdict: Verdicts) -> Mask:
    """Where an installed binding stays until its deadline although the news is of no use."""
    installed = claims.verdict[slots] == ACTIVE
    same_client = (claims.rows["client"][slots] == rows["client"]).all(1)
    kept: Mask = rows["state"] == State.TRANSITIONING
    kept |= (verdict == QUARANTINED) & same_client & (rows["has"] & int(Has.B4) == 0)
    kept &= installed
    return kept
