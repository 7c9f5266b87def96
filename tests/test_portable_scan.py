"""Tables and lanes where the CPU has no AVX2: what holds with one way to search buckets holds with the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylwaftr import _core
from tests.test_binding_counters import (  # noqa: F401
    test_a_burst_of_many_counts_for_each,
    test_counts_stay_with_their_bindings_while_entries_move,
)
from tests.test_binding_table import (  # noqa: F401
    test_a_million_bindings_at_95_percent,
    test_look_up,
    test_the_table_is_a_dictionary,
    test_who_holds,
)
from tests.test_large_batches import test_new_changed_and_unchanged_at_once  # noqa: F401
from tests.test_packet_rows import test_row  # noqa: F401
from tests.test_plain_way import test_random_traffic  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def portable() -> Iterator[None]:
    before = _core.table_scan()
    _core.use_table_scan("portable")
    yield
    _core.use_table_scan(before)


def test_it_is_the_portable_way() -> None:
    assert _core.table_scan() == "portable"


def test_no_other_ways() -> None:
    with pytest.raises(ValueError, match="no such way to search buckets on this CPU: sse9"):
        _core.use_table_scan("sse9")
    assert _core.table_scan() == "portable"
