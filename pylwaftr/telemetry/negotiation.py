"""Which form of a scrape a client wants: RFC 9110 sections 12.5.1 and 12.5.3, of what the library can write.

A version that is not known is none that is offered: the next wish counts, and at last the text that everybody reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.exposition import choose_encoder

Encoder = Callable[[Any], bytes]

_OPENMETRICS = "application/openmetrics-text"
_ESCAPING = ("underscores", "dots", "values", "allow-utf-8")
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def encoder_for(accept: str) -> tuple[Encoder, str]:
    """And the content type of what it writes."""
    for media, parameters in _wishes(accept):
        version = parameters.get("version", "")
        if media == _OPENMETRICS and version in ("", "1.0.0"):
            break
        if media == "text/plain" and version in ("", "0.0.4", "1.0.0"):
            break
        if media in ("*/*", "text/*"):
            return choose_encoder("")
    else:
        return choose_encoder("")
    escaping = parameters.get("escaping", "")
    known = f";escaping={escaping}" if escaping in _ESCAPING else ""
    return choose_encoder(f"{media};version={version}{known}" if version else media)


def gzip_wanted(accept_encoding: str) -> bool:
    return any(coding == "gzip" for coding, _ in _wishes(accept_encoding))


def _wishes(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The dearest first, what is refused (q=0) left out."""
    found = [_wish(part) for part in header.split(",") if part.strip()]
    for weight, name, parameters in sorted(found, key=lambda wish: -wish[0]):
        if weight > 0:
            yield name, parameters


def _wish(part: str) -> tuple[float, str, dict[str, str]]:
    name, *rest = part.split(";")
    pairs = (one.partition("=") for one in rest)
    parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
    weight = parameters.pop("q", "1")
    return float(weight) if _WEIGHT.fullmatch(weight) else 1.0, name.strip().lower(), parameters
