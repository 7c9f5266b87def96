"""Options whose text becomes a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that turns an option's text, or each of several, into a value; a ValueError is a usage error."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(text) for text in value)
            return None if value is None else parse(value)
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from None

    return convert
