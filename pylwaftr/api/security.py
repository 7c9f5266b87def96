"""Who may connect, and who may do what: TLS, and roles by the client's certificate.

Without TLS there is nobody to tell apart: whoever reaches the listener is admin, which is why that is loopback unless
the configuration says otherwise. With TLS and require_client_cert a certificate that the CA signed has the role that
api.roles gives its name; if api.roles is empty it is admin, else a name that is not there may not call anything.
Without require_client_cert gRPC asks nobody for a certificate, and everybody is viewer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from pylwaftr.api.generated.lwaftr.v1 import (
    bindings_pb2,
    counters_pb2,
    history_pb2,
    leasequery_pb2,
    options_pb2,
    pcp_pb2,
    router_pb2,
)
from pylwaftr.config.services import Api, ServerTls

FILES = (bindings_pb2, counters_pb2, history_pb2, leasequery_pb2, pcp_pb2, router_pb2)
ROLES = {"viewer": options_pb2.ROLE_VIEWER, "operator": options_pb2.ROLE_OPERATOR, "admin": options_pb2.ROLE_ADMIN}

# Every method that can be called -> the least role, as the .proto files say.
NEEDS: dict[str, int] = {
    f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[options_pb2.needs]
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SERVICES = tuple(s.full_name for file in FILES for s in file.DESCRIPTOR.services_by_name.values())
# Health and reflection: for whoever may connect, also without a role.
ANYBODY = -1
OPEN = {
    f"/{service.full_name}/{method.name}": ANYBODY
    for file in (health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class ApiFault(Exception):
    """The API cannot be served; the text is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Caller:
    name: str  # of the certificate, else where it comes from
    role: int  # 0 = none


class Roles:
    def __init__(self, api: Api) -> None:
        self._secure = api.tls is not None
        self.take(api)

    def take(self, api: Api) -> None:
        """Whoever calls from now on has these roles."""
        self._by_name = {name: ROLES[role] for name, role in api.roles}

    def caller(self, context: aio.ServicerContext[object, object]) -> Caller:
        if not self._secure:
            return Caller(_place(context.peer()), options_pb2.ROLE_ADMIN)
        names = _names(context.auth_context())
        if not names:
            return Caller(_place(context.peer()), options_pb2.ROLE_VIEWER)
        if not self._by_name:
            return Caller(names[0], options_pb2.ROLE_ADMIN)
        known = [name for name in names if name in self._by_name]
        if not known:
            return Caller(names[0], 0)
        return max((Caller(name, self._by_name[name]) for name in known), key=lambda caller: caller.role)


def _names(auth: object) -> list[str]:
    """Common name and alternative names; empty without a certificate."""
    assert isinstance(auth, dict)
    found: list[bytes] = [*auth.get("x509_common_name", ()), *auth.get("x509_subject_alternative_name", ())]
    names = [name.decode("utf-8", "replace") for name in found if name]  # one without a common name has an empty one
    return names or (["(a certificate without a name)"] if "x509_pem_cert" in auth else [])


def _place(peer: str) -> str:
    """Without the port, which every connection has its own."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer


def role_name(role: int) -> str:
    return next((name for name, number in ROLES.items() if number == role), "nobody")


def credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Files that change are read again at the next handshake. Raises ApiFault."""
    files = _Files(tls)
    try:
        first = files.read()
    except OSError as fault:
        raise ApiFault(f"api.tls: {fault.filename} cannot be read: {fault.strerror}") from None
    return grpc.dynamic_ssl_server_credentials(
        first,
        files.changed,  # type: ignore[arg-type]  # None is allowed: go on with what there is
        require_client_authentication=tls.require_client_cert,
    )


class _Files:
    def __init__(self, tls: ServerTls) -> None:
        if tls.cert is None or tls.key is None:
            raise ApiFault("api.tls: names no certificate of the server; give cert and key")
        self._cert, self._key, self._ca = tls.cert, tls.key, tls.ca
        self._lock = threading.Lock()  # handshakes are on threads of gRPC's own
        self._stamp: tuple[int, ...] = ()

    def _stamps(self) -> tuple[int, ...]:
        return tuple(f.stat().st_mtime_ns for f in (self._cert, self._key, self._ca) if f is not None)

    def read(self) -> grpc.ServerCertificateConfiguration:
        self._stamp = self._stamps()
        pairs = [(self._key.read_bytes(), _pem(self._cert))]
        return grpc.ssl_server_certificate_configuration(pairs, _pem(self._ca) if self._ca is not None else None)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """None: nothing new, or a file is just being replaced."""
        with self._lock:
            try:
                return self.read() if self._stamps() != self._stamp else None
            except (OSError, ApiFault):
                return None


def _pem(file: Path) -> bytes:
    octets = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in octets:
        raise ApiFault(f"api.tls: {file} holds no certificate in PEM form")
    return octets
