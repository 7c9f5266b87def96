import numpy as np
import numpy.typing as npt

from pylwaftr.responder.encode import Leases, Octets

NAMES: tuple[str, ...]

def fill(
    out: Octets,
    message: Octets,
    places: npt.NDArray[np.int32],
    leases: Leases,
    xid: int,
    now: int,
    softwire: bool,
    size: int,
    sender: bytes,
) -> None: ...
