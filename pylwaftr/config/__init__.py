"""The configuration: YAML file to validated, frozen model; every fault with its line, all of them at once.

load() runs nodes (YAML to a tree with lines), schema (keys, types, ranges) and checks (what has to fit together), each
on what the one before it could make sense of.
"""

from pathlib import Path

from pylwaftr.config import check_services, checks, filter_checks, schema, schema_services
from pylwaftr.config.binding_rows import Table, check_pools, surroundings
from pylwaftr.config.core_settings import core_settings
from pylwaftr.config.faults import ConfigFaults, Fault, Report
from pylwaftr.config.model import Config
from pylwaftr.config.nodes import Mapping, Node, SyntaxFault, compose
from pylwaftr.config.reader import Refused, Section, Spot, maybe, section
from pylwaftr.rows import Rows

__all__ = ["Config", "ConfigFaults", "Fault", "binding_rows", "core_settings", "load", "load_text", "text_of"]


def load(path: str | Path) -> Config:
    """Read and validate a configuration file. Raises ConfigFaults, and nothing else."""
    return load_text(text_of(path), str(path), Path(path).parent)


def text_of(path: str | Path) -> str:
    """Raises ConfigFaults."""
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise ConfigFaults([Fault(name, 1, "file", f"cannot be read: {reason}")]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        message = f"octet {data[fault.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise ConfigFaults([Fault(name, line, "file", message)]) from None


def load_text(text: str, name: str = "config", folder: Path = Path()) -> Config:
    """The same for text that is not in a file; relative file names in it start at `folder`."""
    report = Report(name, folder)
    try:
        root = compose(text)
    except SyntaxFault as fault:
        raise ConfigFaults([Fault(name, fault.line, "yaml", fault.message)]) from None
    try:
        config = _read(root if root is not None else Mapping(1), report)
    except Refused as fault:
        raise ConfigFaults([Fault(name, 1, "file", str(fault))]) from None
    faults = report.faults()
    if any(not fault.warning for fault in faults):
        raise ConfigFaults(faults)
    return config


def binding_rows(config: Config) -> Rows:
    """The rows of bindings.entries and bindings.file, in that order."""
    return config.rows


def _read(root: Node, report: Report) -> Config:
    report.mark("", 1)
    at = Section(Spot(root, "", report, 1))
    dataplane = at.section("dataplane", schema.dataplane)
    interfaces = at.section("interfaces", schema.interfaces)
    softwire = at.section("softwire", schema.softwire)
    icmp = at.section("icmp", schema.icmp)
    bindings = at.section("bindings", schema.bindings)
    subscribers = at.section("subscribers", schema_services.subscribers)
    pcp = at.section("pcp", schema_services.pcp)
    leasequery = at.section("leasequery", schema_services.leasequery)
    api = at.section("api", schema_services.api)
    metrics = at.section("metrics", schema_services.metrics)
    state = at.section("state", schema_services.state)
    history = at.section("history", schema_services.history)
    fleet = at.get("fleet", maybe(section(schema_services.fleet)), None)
    logging = at.section("logging", schema_services.logging)
    at.finish()

    checks.check(report, interfaces, softwire)
    filter_checks.check(report, interfaces)
    check_services.check_pcp(report, pcp, interfaces, dataplane.max_bindings)
    check_services.check_leasequery(report, leasequery)
    check_services.check_api(report, api)
    check_services.check_fleet(report, fleet)
    table = Table(report, bindings, softwire.br_addresses[0].packed if softwire.br_addresses else bytes(16))
    table.check(surroundings(interfaces, softwire, subscribers, pcp), dataplane.max_bindings)
    check_pools(report, table.rows, pcp)

    return Config(
        source=report.file,
        dataplane=dataplane,
        interfaces=interfaces,
        softwire=softwire,
        icmp=icmp,
        bindings=bindings,
        subscribers=subscribers,
        pcp=pcp,
        leasequery=leasequery,
        api=api,
        metrics=metrics,
        state=state,
        history=history,
        fleet=fleet,
        logging=logging,
        rows=table.rows,
        warnings=tuple(fault for fault in report.faults() if fault.warning),
    )
