from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.records import Claims
from pylwaftr.dhcp.slots import SlotTable
from pylwaftr.rows import Rows

Octets = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int32]

def keys_of(octets: Octets, size: int) -> npt.NDArray[np.uint64]: ...
def hear(
    octets: Octets,
    slots: Slots,
    places: Slots,
    table: SlotTable,
    claims: Claims,
    number: int,
    former: Claims,
    others: Sequence[Claims],
    b4s: KeyIndex,
    own: Octets,
    pools: npt.NDArray[np.uint32],
    now: float,
    untimed_s: float,
    bulk: bool,
) -> tuple[int, int]: ...
def rows_of(slots: Slots, keys: npt.NDArray[np.uint64], b4: Octets, br: Octets) -> Rows: ...
