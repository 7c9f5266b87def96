"""The keys of the control side's services with their defaults and ranges."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pylwaftr import addresses
from pylwaftr.config import values
from pylwaftr.config.nodes import Mapping, Scalar
from pylwaftr.config.reader import (
    Refused,
    Section,
    Spot,
    boolean,
    file_path,
    integer,
    is_null,
    listing,
    maybe,
    number,
    one_of,
    parsed,
    section,
    text,
)
from pylwaftr.config.services import (
    Api,
    Etcd,
    Fleet,
    History,
    Leasequery,
    LeaseServer,
    Lifetime,
    Logging,
    Metrics,
    Pcp,
    PcpRate,
    PeerTls,
    Pool,
    ServerTls,
    State,
    Subscribers,
    Syslog,
    ThirdParty,
)

_COUNT = integer(1, 1_000_000_000)
_SECONDS = integer(0, 0xFFFFFFFF)
_ENDPOINT = maybe(parsed(values.endpoint))


def subscribers(at: Section) -> Subscribers:
    return Subscribers(
        mask=at.get("mask", integer(1, 128), 56),
        max_softwires=at.get("max_softwires", integer(1, 1_000_000), 1),
        on_new_address=at.get("on_new_address", one_of("pcp", "data", "reject"), "pcp"),
        min_change_interval_s=at.get("min_change_interval_s", _SECONDS, 1800),
        limit_operator=at.get("limit_operator", boolean, False),
    )


def pcp(at: Section) -> Pcp:
    return Pcp(
        enabled=at.get("enabled", boolean, True),
        server_addresses=at.get("server_addresses", listing(parsed(addresses.ipv4)), (IPv4Address("192.0.0.1"),)),
        pools=at.get("pools", listing(section(_pool)), ()),
        lifetime=at.section("lifetime", _lifetime),
        max_sets_per_subscriber=at.get("max_sets_per_subscriber", integer(1, 65536), 1),
        provisioning_protocols=at.get("provisioning_protocols", listing(integer(0, 255)), (0,)),
        nonce_policy=at.get("nonce_policy", one_of("strict", "subscriber"), "strict"),
        quarantine_s=at.get("quarantine_s", _SECONDS, 7440),
        announce_per_s=at.get("announce_per_s", _COUNT, 20000),
        rate_limit=at.section("rate_limit", _pcp_rate),
        third_party=at.section("third_party", _third_party),
    )


def _pool(at: Section) -> Pool:
    offset = at.get("psid_offset", integer(0, 16), 0)
    if offset:
        reason = "must be 0: PCP's PORT_SET option names one range of ports, and offset bits make several"
        at.report.error(at.at("psid_offset"), f"is {offset}; it {reason}")
    excluded = at.get("exclude_ports", maybe(parsed(values.port_ranges)), ((0, 1023),))
    return Pool(
        ipv4=at.required("ipv4", parsed(addresses.network4), IPv4Network("0.0.0.0/32"), "give a prefix"),
        psid_offset=offset,
        psid_len=at.get("psid_len", integer(0, 16), 6),
        exclude_ports=excluded or (),
        signalling=at.get("signalling", one_of("rfc7753", "draft-b"), "rfc7753"),
    )


def _lifetime(at: Section) -> Lifetime:
    return Lifetime(
        min_s=at.get("min_s", integer(1, 0xFFFFFFFF), 120),
        max_s=at.get("max_s", integer(1, 0xFFFFFFFF), 86400),
        default_s=at.get("default_s", integer(1, 0xFFFFFFFF), 7200),
    )


def _pcp_rate(at: Section) -> PcpRate:
    return PcpRate(per_s=at.get("per_s", _COUNT, 50000), per_subscriber=at.get("per_subscriber", _COUNT, 10))


def _third_party(at: Section) -> ThirdParty:
    return ThirdParty(
        listen=at.get("listen", _ENDPOINT, None), allow=at.get("allow", listing(parsed(addresses.network)), ())
    )


def leasequery(at: Section) -> Leasequery:
    return Leasequery(servers=at.get("servers", listing(section(_lease_server)), ()))


def _lease_server(at: Section) -> LeaseServer:
    profile = at.get("profile", one_of("W", "N", "S"), "W")
    return LeaseServer(
        address=at.required("address", parsed(values.host), "", "give the server's address or name"),
        port=at.get("port", integer(1, 65535), 67 if profile == "N" else 547),
        source=at.get("source", maybe(parsed(addresses.any_address)), None),
        profile=profile,
        require_tls=at.get("require_tls", boolean, True),
        tls=at.get("tls", maybe(section(_peer_tls)), None),
        links=at.get("links", listing(parsed(addresses.ipv6)), ()),
        pools=at.get("pools", listing(parsed(addresses.network4)), ()),
        priority=at.get("priority", integer(-1000, 1000), 0),
        poll_interval_s=at.get("poll_interval_s", integer(1, 86400), 300),
        expiry_hold_s=at.get("expiry_hold_s", _SECONDS, 3600),
        timer_scale=at.get("timer_scale", number(0.001, 1000), 1.0),
        active_query=at.get("active_query", boolean, True),
        accept_psid_offset=at.get("accept_psid_offset", boolean, True),
    )


def _peer_tls(at: Section) -> PeerTls:
    return PeerTls(
        ca=at.get("ca", maybe(file_path), None),
        cert=at.get("cert", maybe(file_path), None),
        key=at.get("key", maybe(file_path), None),
        name=at.get("name", maybe(text), None),
    )


def _server_tls(at: Section) -> ServerTls:
    return ServerTls(
        ca=at.get("ca", maybe(file_path), None),
        cert=at.required("cert", maybe(file_path), None, "give the file of the server's certificate"),
        key=at.required("key", maybe(file_path), None, "give the file of the certificate's key"),
        require_client_cert=at.get("require_client_cert", boolean, True),
    )


def api(at: Section) -> Api:
    return Api(
        listen=at.get("listen", _ENDPOINT, values.Endpoint("127.0.0.1", 50051)),
        tls=at.get("tls", maybe(section(_server_tls)), None),
        allow_plaintext=at.get("allow_plaintext", boolean, False),
        roles=at.get("roles", _roles, ()),
    )


def _names(spot: Spot) -> list[tuple[str, Spot]]:
    """A mapping whose keys are the operator's own names."""
    if is_null(spot.node):
        return []
    if not isinstance(spot.node, Mapping):
        raise Refused("is not a mapping; write { name: value }")
    found: dict[str, Spot] = {}
    for key, value in spot.node.pairs:
        if not isinstance(key, Scalar) or key.text in found:
            raise Refused(f"the name on line {key.line} is given twice or is no name")
        found[key.text] = Spot(value, f"{spot.path}.{key.text}", spot.report, key.line)
    return list(found.items())


def _roles(spot: Spot) -> tuple[tuple[str, str], ...]:
    return tuple((name, one_of("viewer", "operator", "admin")(role)) for name, role in _names(spot))


def _announce(spot: Spot) -> tuple[tuple[str, str], ...]:
    return tuple((name, text(value)) for name, value in _names(spot))


def metrics(at: Section) -> Metrics:
    return Metrics(listen=at.get("listen", _ENDPOINT, values.Endpoint("127.0.0.1", 9464)))


def state(at: Section) -> State:
    return State(directory=at.get("directory", file_path, Path("/var/lib/pylwaftr")))


def history(at: Section) -> History:
    return History(
        retention_days=at.get("retention_days", maybe(integer(1, 36500)), 180),
        syslog=at.get("syslog", maybe(section(_syslog)), None),
    )


def _syslog(at: Section) -> Syslog:
    return Syslog(
        server=at.required(
            "server", parsed(values.endpoint), values.Endpoint("", 0), "give host:port of the collector"
        ),
        transport=at.get("transport", one_of("udp", "tcp"), "udp"),
        facility=at.get("facility", one_of("daemon", "local0", "local1", "local2", "local3", "local4"), "local0"),
    )


def fleet(at: Section) -> Fleet:
    return Fleet(
        etcd=at.section("etcd", _etcd),
        node_id=at.get("node_id", maybe(text), None),
        announce=at.get("announce", _announce, ()),
    )


def _etcd(at: Section) -> Etcd:
    return Etcd(
        endpoints=at.required("endpoints", listing(_etcd_endpoint, at_least=1), (), "give the etcd servers"),
        tls=at.get("tls", maybe(section(_peer_tls)), None),
        pop=at.get("pop", maybe(text), None),
    )


def _etcd_endpoint(spot: Spot) -> str:
    url = text(spot)
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise Refused(f"is {url[:60]!r}; write host:port, http://host:port or https://host:port")
    try:
        values.endpoint(rest)
    except ValueError as fault:
        raise Refused(str(fault)) from None
    return url


def logging(at: Section) -> Logging:
    return Logging(
        level=at.get("level", one_of("debug", "info", "warning", "error"), "info"),
        format=at.get("format", one_of("console", "json"), "console"),
    )
