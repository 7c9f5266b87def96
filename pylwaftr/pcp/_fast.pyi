from collections.abc import Callable, Sequence

from pylwaftr.pcp.grants import Grants
from pylwaftr.pcp.limits import Limits
from pylwaftr.pcp.mappings import Mappings
from pylwaftr.pcp.outcome import Sender
from pylwaftr.pcp.settings import Settings
from pylwaftr.pcp.statics import Statics

class Fast:
    answered: int
    def __init__(
        self, settings: Settings, mappings: Mappings, statics: Statics, grants: Grants, limits: Limits
    ) -> None: ...
    def batch(
        self,
        requests: Sequence[tuple[bytes, Sender]],
        epoch: int,
        now: float,
        slow: Callable[[int, bytes, Sender], bytes | None],
    ) -> list[bytes | None]: ...

def net_rows(journal: dict[int, bytes | None], records: dict[int, bytes]) -> tuple[bytes, bytes]: ...
def changed(journal: dict[int, bytes | None], records: dict[int, bytes]) -> dict[bytes, bytes | None]: ...
