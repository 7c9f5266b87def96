"""The YANG data model of RFC 8676 in yangson; loaded when it is first asked, which takes a quarter of a second."""

import functools
from pathlib import Path
from typing import Any

MODULE = "ietf-softwire-br"
FOLDER = Path(__file__).parent / "yang"

_SHOWN = 120  # characters of a message: a pattern of RFC 6991 has some hundred


@functools.cache
def model() -> Any:
    from yangson import DataModel

    return DataModel.from_file(str(FOLDER / "yang-library.json"), (str(FOLDER),))


def fault_of(document: dict[str, Any]) -> tuple[str, str] | None:
    """The first thing that the module does not allow: its path (RFC 8040 section 3.5.3) and what is wrong with it."""
    from yangson.enumerations import ContentType, ValidationScope
    from yangson.exceptions import AnnotationException, RawDataError, RawMemberError, ValidationError

    # A document that was read from a router as a whole has its state too.
    content = ContentType.all if _has_state(document) else ContentType.config
    try:
        model().from_raw(document).validate(ValidationScope.all, content)
    except RawMemberError as fault:
        return fault.path, f"is no node of {MODULE} (RFC 8676)"
    except (RawDataError, AnnotationException) as fault:
        return fault.path, _short(getattr(fault, "message", "has an annotation that belongs to nothing"))
    except ValidationError as fault:
        path, tag = str(fault.instance.instance_route()), str(fault.tag)
        return path, _short(f"{tag}: {fault.message}" if fault.message else tag)
    return None


def _has_state(document: dict[str, Any]) -> bool:
    found = document.get(f"{MODULE}:br-instances", {}).get("binding", {}).get("bind-instance", [])
    return any("traffic-stat" in instance for instance in found if isinstance(instance, dict))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
