"""Which port set an address stands for where no PSID is given: the whole address, and never one set of several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from pylwaftr.api.client import Binding, BindingFilter, CallFailed, Client
from pylwaftr.cli.faults import BAD_INPUT, CommandFault

_NAMED = 16


def whole(router: Client, ipv4: str, source: str | None = None) -> Binding:
    """The binding of the whole address. Raises CommandFault with the PSIDs that there are if the address is divided."""
    try:
        found = router.get(ipv4, source=source)
    except CallFailed as fault:
        if fault.code != "NOT_FOUND":
            raise
        refuse_divided(ipv4, _of(router, ipv4, source))
        raise
    if found.psid_len:
        refuse_divided(ipv4, _of(router, ipv4, source))
    return found


def removable(router: Client, ipv4: str) -> str:
    """The etag of the operator's binding of the whole address; "" if it is another's, or nobody's."""
    for source in "SOURCE_OPERATOR", None:
        try:
            found = whole(router, ipv4, source)
        except CallFailed as fault:
            if fault.code != "NOT_FOUND":
                raise
        else:
            return found.etag if source is not None else ""
    return ""  # removing says what there is instead


def _of(router: Client, ipv4: str, source: str | None) -> Iterable[Binding]:
    """Of a source also those that wait."""
    for shadowed in (False, True) if source is not None else (False,):
        yield from router.bindings(BindingFilter(ipv4=ipv4, source=source, shadowed=shadowed))


def refuse_divided(ipv4: str, bindings: Iterable[Binding]) -> None:
    found = [(one.psid, one.psid_len) for one in itertools.islice(bindings, 1 + 1000) if one.psid_len]
    if not found:
        return
    psids = sorted({psid for psid, _ in found})
    more = (
        ""
        if len(psids) <= _NAMED
        else f" and {'more than ' * (len(psids) > 1000)}{min(len(psids), 1000) - _NAMED} more"
    )
    named = ", ".join(map(str, psids[:_NAMED])) + more
    raise CommandFault(
        f"{ipv4} is divided into port sets (length {found[0][1]}): give --psid; bound are PSID {named}",
        BAD_INPUT,
        "PSID_NEEDED",
        metadata={"ipv4": ipv4, "psids": ",".join(map(str, psids[:1000]))},
    )
