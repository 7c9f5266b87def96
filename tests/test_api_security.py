"""Who may connect to the API and who may do what, with real certificates; what a log may hold."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import aio

from pylwaftr.api import security
from pylwaftr.api.bindings_service import BindingService
from pylwaftr.api.client import Binding, CallFailed, Client, Tls
from pylwaftr.api.gate import Guarded
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2, bindings_pb2_grpc, options_pb2
from pylwaftr.api.generated.lwaftr.v1 import router_pb2 as pb
from pylwaftr.api.limits import Limits
from pylwaftr.api.once import Once
from pylwaftr.api.server import ApiFault
from pylwaftr.config.services import Api, ServerTls
from pylwaftr.config.values import Endpoint
from tests.api_router import LOCAL, Served, parts

BINDING = Binding(ipv4="203.0.113.5", b4_ipv6="2001:db8:1::1")
ROLES = (("looker", "viewer"), ("worker.example.net", "operator"), ("boss", "admin"), ("urn:lwaftr:robot", "operator"))


class Authority:
    """A CA and the files it made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ca = folder, trustme.CA()
        folder.mkdir(exist_ok=True)
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, file: str, *names: str, common: str | None = None) -> tuple[Path, Path]:
        made = self._ca.issue_cert(*names, common_name=common)
        cert, key = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        cert.unlink(missing_ok=True)
        for blob in made.cert_chain_pems:
            blob.write_to_path(cert, append=True)
        made.private_key_pem.write_to_path(key)
        return cert, key

    def client(self, *names: str, common: str | None = None) -> Tls:
        cert, key = self.issue("client", *names, common=common)
        return Tls(self.ca, cert, key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def secure(authority: Authority, roles: tuple[tuple[str, str], ...] = ROLES, require: bool = True) -> Api:
    cert, key = authority.issue("server", "127.0.0.1")
    tls = ServerTls(authority.ca, cert, key, require)
    return Api(Endpoint("127.0.0.1", 0), tls, False, roles)


ACTS: dict[str, Callable[[Client], Any]] = {
    "look": lambda c: c.lookup_port("203.0.113.5", 1),
    "create": lambda c: c.create(BINDING, validate_only=True),
    "load": lambda c: c.load(b"", validate_only=True),
    "settings": lambda c: c.settings(),
    "reload": lambda c: c.apply_settings(validate_only=True),
    "capture": lambda c: list(c.capture(pb.CaptureRequest())),
    "capture to a file": lambda c: list(c.capture(pb.CaptureRequest(file="/tmp/new.pcapng"))),
}
MAY = {  # role -> what it may
    "nobody": [],
    "viewer": ["look"],
    "operator": ["look", "create", "load", "settings", "capture"],
    "admin": list(ACTS),
}


def may(client: Client) -> list[str]:
    done, refusals = [], set()
    for name, act in ACTS.items():
        try:
            act(client)
            done.append(name)
        except CallFailed as fault:
            refusals.add((fault.code, fault.reason))
    assert refusals <= {("PERMISSION_DENIED", "ROLE_TOO_LOW")}
    return done


CERTIFICATES = [  # alternative names, common name, role
    (["looker"], None, "viewer"),
    ([], "looker", "viewer"),
    (["worker.example.net"], None, "operator"),
    ([], "boss", "admin"),
    (["looker", "worker.example.net"], None, "operator"),  # the most of them
    (["stranger"], None, "nobody"),
    ([], "Boss", "nobody"),
]


@pytest.mark.parametrize("names, common, role", CERTIFICATES, ids=[f"{row[0]} {row[1]}" for row in CERTIFICATES])
def test_a_certificate_has_the_role_of_its_name(
    authority: Authority, names: list[str], common: str | None, role: str
) -> None:
    identity = authority.client(*(names or ["unlisted.example"]), common=common)
    with Served(parts(), secure(authority)) as served, Client(served.target, identity) as client:
        assert may(client) == MAY[role]
        assert client.health() == "SERVING"  # for whoever may connect


def test_without_a_list_of_roles_every_certificate_is_admin(authority: Authority) -> None:
    identity = authority.client("anyone")
    with Served(parts(), secure(authority, ())) as served, Client(served.target, identity) as client:
        assert may(client) == MAY["admin"]


def test_a_certificate_without_a_common_name_has_its_alternative_one(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, in refusals, and by it request_ids of one client are told from those of another."""
    caplog.set_level(logging.INFO)
    asked = bindings_pb2.CreateBindingRequest(binding=BINDING, request_id="1")
    with Served(parts(), secure(authority, ())) as served:
        with Client(served.target, authority.client("anyone.example")) as client:
            client.stubs.bindings.CreateBinding(asked)
        assert "CreateBinding by anyone.example (admin): done" in caplog.text
        with Client(served.target, authority.client("other.example")) as client, pytest.raises(grpc.RpcError) as caught:
            client.stubs.bindings.CreateBinding(asked)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    with Served(parts(), secure(authority)) as served:
        stranger = Client(served.target, authority.client("stranger.example"))
        with stranger, pytest.raises(CallFailed, match=r"^stranger\.example is nobody"):
            stranger.status()


@pytest.mark.parametrize("named", [False, True])
def test_where_no_certificate_is_required_everybody_only_reads(authority: Authority, named: bool) -> None:
    """gRPC does not ask for certificates then, so that of an admin is not seen either."""
    identity = authority.client("boss") if named else Tls(authority.ca)
    api = secure(authority, require=False)
    with Served(parts(), api) as served, Client(served.target, identity) as client:
        assert may(client) == MAY["viewer"]


def test_loopback_without_tls_is_admin() -> None:
    with Served(parts()) as served, Client(served.target) as client:
        assert may(client) == MAY["admin"]


def refused(target: str, tls: Tls | None) -> bool:
    with Client(target, tls, timeout_s=3, retry_s=()) as client:
        try:
            client.health()
        except CallFailed as fault:
            return fault.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    return False


def test_who_may_not_connect(authority: Authority, tmp_path: Path) -> None:
    others = Authority(tmp_path / "others")
    with Served(parts(), secure(authority)) as served:
        assert refused(served.target, None)  # plain text
        assert refused(served.target, Tls(authority.ca))  # no certificate
        foreign = others.client("boss")
        assert refused(served.target, Tls(authority.ca, foreign.cert, foreign.key))
        mine = authority.client("boss")
        assert refused(served.target, Tls(others.ca, mine.cert, mine.key))  # the client knows another CA
        assert refused(served.target, replace(mine, server_name="other.example.net"))
        assert not refused(served.target, mine)


def test_new_certificate_files_are_used_without_a_restart(authority: Authority) -> None:
    api, mine = secure(authority), authority.client("boss")
    with Served(parts(), api) as served:
        authority.issue("server", "renewed.example.net")
        deadline = time.monotonic() + 60
        while refused(served.target, replace(mine, server_name="renewed.example.net")):
            assert time.monotonic() < deadline
        assert refused(served.target, replace(mine, server_name="127.0.0.1"))


LISTENERS = [  # what is configured, the fault
    (replace(LOCAL, listen=None), "api.listen is null"),
    (replace(LOCAL, listen=Endpoint("0.0.0.0", 0)), "0.0.0.0:0 can be reached by others without TLS"),
    (replace(LOCAL, listen=Endpoint("203.0.113.77", 5), allow_plaintext=True), "cannot be listened on"),
    (replace(LOCAL, tls=ServerTls(None, None, None, False)), "names no certificate"),
    (replace(LOCAL, tls=ServerTls(None, Path("/no/cert"), Path("/no/key"), False)), "cannot be read: No such file"),
    (replace(LOCAL, tls=ServerTls(None, Path("/etc/hostname"), Path("/etc/hostname"), False)), "no certificate in PEM"),
]


@pytest.mark.parametrize("api, fault", LISTENERS, ids=[row[1] for row in LISTENERS])
def test_a_listener_that_is_refused(api: Api, fault: str) -> None:
    with pytest.raises(ApiFault, match=fault), Served(parts(), api):
        pass


def test_plain_text_elsewhere_only_when_told() -> None:
    api = replace(LOCAL, listen=Endpoint("0.0.0.0", 0), allow_plaintext=True)
    with Served(parts(), api) as served, Client(served.target) as client:
        assert client.health() == "SERVING"


def test_a_port_that_is_taken() -> None:
    with Served(parts()) as served:
        api = replace(LOCAL, listen=Endpoint("127.0.0.1", served.running.port))
        with pytest.raises(ApiFault, match="cannot be listened on"), Served(parts(), api):
            pass


def test_a_server_goes_with_its_last_reference() -> None:
    """Collected later, and unstarted, it would name itself in the log while it is freed, and records are kept."""

    async def gone() -> bool:
        server = aio.server()
        guarded: Any = Guarded(server, security.Roles(LOCAL), Limits())
        bindings_pb2_grpc.add_BindingServiceServicer_to_server(
            BindingService(parts(), Limits(), Once(Limits())), guarded
        )
        seen = weakref.ref(server)
        del server, guarded
        return seen() is None

    gc.disable()
    try:
        assert asyncio.run(gone())
    finally:
        gc.enable()


def test_every_method_has_a_role_and_changes_are_not_for_viewers() -> None:
    assert len(security.NEEDS) >= 30
    assert options_pb2.ROLE_UNSPECIFIED not in security.NEEDS.values()
    for method, role in security.NEEDS.items():
        name = method.rpartition("/")[2]
        if not name.startswith(("Get", "List", "Dump", "Watch", "Lookup", "WhoHeld", "Describe", "Stream")):
            assert role >= options_pb2.ROLE_OPERATOR, method


def test_what_clients_send_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Served(parts()) as served, Client(served.target) as client:
        client.apply_settings("token: hunter2")
        client.create(BINDING)
        with pytest.raises(grpc.RpcError):
            client.stubs.router.ApplySettings(
                pb.ApplySettingsRequest(yaml="bad", etag="hunter2"), metadata=(("authorization", "hunter2"),)
            )
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("pylwaftr")]
    assert any("CreateBinding by ipv4:127.0.0.1 (admin): done" in line for line in ours)
    assert any("ApplySettings by ipv4:127.0.0.1: INVALID_ARGUMENT SETTINGS_FAULTY" in line for line in ours)
    assert "hunter2" not in caplog.text


def test_a_fault_of_the_program_tells_its_number_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    router = parts()
    router.machine.counters = None  # type: ignore[method-assign,assignment]
    with Served(router) as served, Client(served.target) as client, pytest.raises(CallFailed) as caught:
        client.counters()
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "INTERNAL")
    assert "NoneType" not in caught.value.message
    assert caught.value.metadata["fault"] in caplog.text
