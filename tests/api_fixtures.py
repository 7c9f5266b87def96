"""Fixtures of the API's tests: a router without ports that is served, a client of it, and its command line.

A file asks for them by `pytest_plugins = ("tests.api_fixtures",)`. One that wants other bindings, another router or
other limits has a fixture of that name.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylwaftr.api.backend import Parts
from pylwaftr.api.client import Client
from pylwaftr.api.limits import Limits
from tests.api_router import Bindings, Run, Served, parts


@pytest.fixture
def bindings() -> Bindings:
    return Bindings()


@pytest.fixture
def router(bindings: Bindings) -> Parts:
    return parts(bindings)


@pytest.fixture
def limits() -> Limits | None:
    return None


@pytest.fixture
def served(router: Parts, limits: Limits | None) -> Iterator[Served]:
    with Served(router, limits=limits) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.target) as made:
        yield made


@pytest.fixture
def run(served: Served) -> Run:
    return served.command
