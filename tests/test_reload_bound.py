"""A reload, or a start, against what is bound: the bindings that it would break are named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, cast

import pytest

from pylwaftr import config, rows
from pylwaftr.api.backend import SettingsFaulty
from pylwaftr.changes import Source
from pylwaftr.daemon.services import Services
from pylwaftr.rows import Rows
from tests.config_text import SOFTWIRE, V4, V6, entries
from tests.reload_life import SERVER, Engine, life_of

BR1, BR2 = (IPv6Address(f"2001:db8:aa::{n}") for n in (1, 2))
TWO, SECOND, FIRST = ({"softwire": f"br_addresses: {[str(br) for br in brs]}"} for brs in ((BR1, BR2), (BR2,), (BR1,)))
OPERATOR, DHCP, PCP = Source.OPERATOR, Source.DHCP, Source.PCP
OWN4 = {"v4": V4.replace("[192.0.2.1/24]", "[192.0.2.1/24, 203.0.113.5/32]")}
OWN6 = {"v6": V6.replace('["2001:db8:ffff::2/64"]', '["2001:db8:ffff::2/64", "2001:db8:1::5/64"]')}
OWN_BR = {"softwire": SOFTWIRE.replace("]", ', "2001:db8:1::5"]')}


def bound(*psids: int, br: IPv6Address = BR1) -> Rows:
    """Sets of 203.0.113.5, each for the B4 2001:db8:1::5."""
    b4_address = IPv6Address("2001:db8:1::5").packed
    return rows.array([rows.row(int(IPv4Address("203.0.113.5")), 0, 6, psid, b4_address, br.packed) for psid in psids])


SET = "203.0.113.5 PSID {}/6".format
GONE = f"4: softwire.br_addresses: {BR1} is no longer served, but used by"
GONE_WARNED = GONE.replace(": 2001", ": warning: 2001")
OWN = "would be the router's own address, but is that of"
OTHERS = "give them another, or remove them, and reload then"
FIRST_CHANGED = "until a reload has changed them: do that reload first"
STATIC = entries('ipv4: 203.0.113.5, psid_len: 6, psid: 1, b4_ipv6: "2001:db8:1::5"')
# what, bound by whom, configuration before, the one to come, what is said (with "warning: ": it is taken over)
IN_NO_FILE: list[tuple[str, list[tuple[Source, Rows]], dict[str, str], dict[str, str], list[str]]] = [
    ("a BR address goes that nobody has", [(OPERATOR, bound(1))], TWO, FIRST, []),
    (
        "a BR address goes that an operator's binding has",
        [(OPERATOR, bound(7)), (OPERATOR, bound(9, br=BR2))],
        TWO,
        SECOND,
        [f"{GONE} 1 binding of an operator ({SET(7)}); they would forward nothing: {OTHERS}"],
    ),
    (
        "one that many have",
        [(OPERATOR, bound(*range(1, 41)))],
        TWO,
        SECOND,
        [
            f"{GONE} 40 bindings of an operator (such as {SET(1)}, {SET(2)}, {SET(3)}); they would forward nothing: "
            f"{OTHERS}"
        ],
    ),
    (
        "one that leases and PCP's mappings have",
        [(DHCP, bound(1, 2)), (PCP, bound(3))],
        TWO,
        SECOND,
        [
            f"{GONE_WARNED} 2 bindings of DHCP ({SET(1)}, {SET(2)}); they get {BR2}, and their B4s have to use it",
            f"{GONE_WARNED} 1 binding of PCP ({SET(3)}); they forward nothing until their B4s ask again "
            "through another",
        ],
    ),
    (
        "one that a binding has which waits behind the configuration",
        [(Source.CONFIG, bound(1, br=BR2)), (OPERATOR, bound(1))],
        TWO,
        SECOND,
        [f"{GONE} 1 binding of an operator ({SET(1)}); they would forward nothing: {OTHERS}"],
    ),
    (
        "an own IPv4 address that is bound",
        [(OPERATOR, bound(1)), (DHCP, bound(2))],
        {},
        OWN4,
        [
            f"2: interfaces.v4.addresses: {OWN} 1 binding of an operator and 1 binding of DHCP ({SET(1)}, {SET(2)}); "
            f"{OTHERS}"
        ],
    ),
    (
        "an own IPv6 address that is a B4's",
        [(OPERATOR, bound(1))],
        {},
        OWN6,
        [f"3: interfaces.v6.addresses: {OWN} 1 binding of an operator ({SET(1)}); {OTHERS}"],
    ),
    (
        "a BR address that is a B4's",
        [(PCP, bound(1))],
        {},
        OWN_BR,
        [f"4: softwire.br_addresses: {OWN} 1 binding of PCP ({SET(1)}); {OTHERS}"],
    ),
    (
        "an address of the PCP server that is bound",
        [(OPERATOR, bound(1))],
        {},
        {"more": "pcp: {server_addresses: [192.0.0.1, 203.0.113.5]}"},
        [
            "6: pcp.server_addresses: would be the PCP server's address, but is that of 1 binding of an operator "
            f"({SET(1)}); {OTHERS}"
        ],
    ),
    (
        "an own address that is a static binding's, which the same file leaves out",
        [(OPERATOR, bound(2))],
        {"more": STATIC},
        OWN4,
        [
            f"2: interfaces.v4.addresses: {OWN} 1 binding of an operator ({SET(2)}); {OTHERS}",
            f"2: interfaces.v4.addresses: {OWN} 1 binding of the configuration ({SET(1)}) {FIRST_CHANGED}",
        ],
    ),
    ("what is wrong already", [(OPERATOR, bound(1, br=BR2))], FIRST, FIRST | {"more": "icmp: {unbound_v4: false}"}, []),
]


@pytest.mark.parametrize("what, held, before, after, said", IN_NO_FILE, ids=[row[0] for row in IN_NO_FILE])
def test_a_reload_names_the_bindings_that_it_would_break(
    tmp_path: Path,
    what: str,
    held: list[tuple[Source, Rows]],
    before: dict[str, str],
    after: dict[str, str],
    said: list[str],
) -> None:
    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        for source, given in held:
            assert (await services.control.bind(given, source)).ok
        in_force = services.config
        told: list[str] = []
        try:
            done = await reload(**after)
            told = [str(warning) for warning in done.warnings]
        except SettingsFaulty as faulty:
            told = [str(fault) for fault in faulty.faults]
            assert engine.told == []
        assert [line.removeprefix(f"{tmp_path / 'router.yaml'}:") for line in told] == said
        assert (services.config is not in_force) == all("warning: " in line for line in said)

    life_of(tmp_path, test, before)


class _Racing:
    """The table of a control side. Between the looks at what waits and at what is bound something happens, once."""

    def __init__(self, table: Any, act: Callable[[], object]) -> None:
        self._table, self._act = table, [act]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def dump_chunk(self, start: int, most: int) -> Any:
        if self._act:
            self._act.pop()()
        return self._table.dump_chunk(start, most)


def test_a_lease_that_begins_to_wait_just_then_is_named_too(tmp_path: Path) -> None:
    """An operator takes the set of a lease, whose B4 has the address that the router would get."""

    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        loop, control = asyncio.get_running_loop(), services.control
        assert (await control.bind(bound(1), DHCP)).ok
        taken = bound(1)
        taken["b4"][0, 5] = 0x77
        bindings = control._bindings

        async def take() -> None:
            assert (await control.bind(taken, OPERATOR)).ok

        between = _Racing(bindings.table, lambda: asyncio.run_coroutine_threadsafe(take(), loop).result())
        bindings.table = cast(Any, between)
        with pytest.raises(SettingsFaulty) as faulty:
            await reload(**OWN6)
        (fault,) = faulty.value.faults
        assert fault.message == f"{OWN} 1 binding of DHCP ({SET(1)}); {OTHERS}"

    life_of(tmp_path, test)


def test_a_binding_that_came_in_between_is_no_fault_of_the_program(tmp_path: Path) -> None:
    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        def refuse(settings: Any) -> None:
            if len(engine.told) == 0:
                engine.told.append(settings)
                raise ValueError("settings: addresses: a binding has one of the own addresses: unbind it first")

        engine.apply = refuse  # type: ignore[method-assign]
        with pytest.raises(SettingsFaulty, match="a binding has one of the own addresses"):
            await reload("icmp: {unbound_v4: false}")
        assert services.config.icmp.unbound_v4

    life_of(tmp_path, test)


SERVER4 = {"more": "pcp: {server_addresses: [192.0.0.1, 203.0.113.5]}"}
UNSERVED = "a BR address that is not served is used by 1 binding of an operator ({}), which forward nothing; add it to "
# what, bound by whom when the settings have been judged, before, after, what is said
MEANWHILE: list[tuple[str, tuple[Source, Rows], dict[str, str], dict[str, str], list[str]]] = [
    (
        "a BR address that went",
        (OPERATOR, bound(7)),
        TWO,
        SECOND,
        [UNSERVED.format(SET(7)) + "softwire.br_addresses"],
    ),
    ("one that stays", (OPERATOR, bound(7, br=BR2)), TWO, SECOND, []),
    ("one that leases get another for", (DHCP, bound(7)), TWO, SECOND, []),
    (
        "an address of the PCP server",
        (DHCP, bound(7)),
        {},
        SERVER4,
        [f"an address of the PCP server is that of 1 binding of DHCP ({SET(7)}); give them another, or remove them"],
    ),
]


@pytest.mark.parametrize("what, held, before, after, said", MEANWHILE, ids=[row[0] for row in MEANWHILE])
def test_what_is_bound_while_a_reload_is_on_its_way_is_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    what: str,
    held: tuple[Source, Rows],
    before: dict[str, str],
    after: dict[str, str],
    said: list[str],
) -> None:
    source, given = held

    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        coming: list[asyncio.Future[Any]] = []

        async def ask() -> None:
            turn = services.control._writer._turn
            await turn.acquire()  # somebody's many rows go to the table: the next ones wait
            loop.call_later(0.3, turn.release)
            coming.append(asyncio.ensure_future(services.control.bind(given, source)))

        loop = asyncio.get_running_loop()

        def apply(settings: Any) -> None:
            asyncio.run_coroutine_threadsafe(ask(), loop).result()

        engine.apply = apply  # type: ignore[method-assign]
        done = await reload(**after)
        assert done.warnings == ()
        await asyncio.gather(*coming, *services._tasks)
        assert services.machine.remarks == said
        assert [text for text in caplog.messages if "used by" in text or "PCP server" in text] == [
            f"reload: {text}" for text in said
        ]
        engine.apply = lambda settings: None  # type: ignore[method-assign]
        await reload(**after)
        await asyncio.gather(*services._tasks)
        assert services.machine.remarks == []

    life_of(tmp_path, test, before)


def test_a_start_names_what_a_lost_br_address_cuts_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def bind(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        assert (await services.control.bind(bound(1, 2), Source.OPERATOR)).added == 2
        assert (await services.control.bind(bound(3), DHCP)).ok  # gets another

    async def look(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        await services._name_unserved()

    life_of(tmp_path, bind, TWO)
    life_of(tmp_path, look, TWO)
    assert "not served" not in caplog.text
    life_of(tmp_path, look, SECOND)
    assert f"not served is used by 2 bindings of an operator ({SET(1)}, {SET(2)}), which forward" in caplog.text


def test_faults_and_their_lines_are_of_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes the file while it is looked at."""

    async def test(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        await services.control.bind(bound(1), Source.OPERATOR)
        file = tmp_path / "router.yaml"
        file.write_text(file.read_text().replace(str(BR1), str(BR2)))
        load_text = config.load_text

        def loaded(*given: Any) -> Any:
            file.write_text("# written anew\n\n" + file.read_text())
            return load_text(*given)

        monkeypatch.setattr(config, "load_text", loaded)
        with pytest.raises(SettingsFaulty) as caught:
            await services.settings.apply(None, None)
        assert [fault.line for fault in caught.value.faults] == [4]

    life_of(tmp_path, test)


def test_leases_of_a_server_that_is_configured_no_more_after_a_restart_are_looked_after(tmp_path: Path) -> None:
    """Else they would be bound for ever."""

    async def begin(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        assert services.leases is None
        assert (await services.control.bind(bound(1), DHCP)).ok

    async def go_on(services: Services, reload: Callable[..., Awaitable[Any]], engine: Engine) -> None:
        assert services.leases is not None
        assert services.leases.names == []
        requestor = services.leases.edge.requestor
        assert requestor.leases.bindings()["psid"].tolist() == [1]
        due = requestor.timer()
        assert due is not None
        assert due - asyncio.get_running_loop().time() < 3601
        services._start_leases()
        assert (await reload(SERVER)).differences
        assert services.leases.names == ["127.0.0.1:9"]

    life_of(tmp_path, begin)
    life_of(tmp_path, go_on)
