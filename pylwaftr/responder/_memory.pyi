from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pylwaftr.responder.database import Changes
from pylwaftr.responder.encode import Leases

class Memory:
    head: int
    horizon: int
    next_expiry: float
    count: int
    _leases: Leases
    _log: npt.NDArray[np.int32]
    _times: npt.NDArray[np.uint32]

    def __init__(self, log_size: int) -> None: ...
    def load(self, leases: Leases, at: int) -> None: ...
    def take(self, rows: Changes, now: int | None) -> None: ...
    def ended(self, slots: Iterable[int], state: int, now: int) -> None: ...
