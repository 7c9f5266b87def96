"""make_dashboard.py [--check]: writes configs/grafana.json, the Grafana dashboard, or fails if it is not up to date.

Import it in Grafana and choose the Prometheus data source. A test asks a running router for every metric named here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import made_file  # noqa: E402

OUT = ROOT / "configs" / "grafana.json"
WIDTH, HEIGHT = 8, 7  # of a panel; a row of Grafana is 24 wide


class Panel(NamedTuple):
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]  # PromQL, legend
    kind: str = "timeseries"


RATE = "[$__rate_interval]"
BY = '{instance=~"$instance"}'
CYCLES_A_FRAME = " / ".join(
    f"sum by (worker) (rate(lwaftr_{name}_total{BY}{RATE}))" for name in ("busy_cycles", "rx_packets")
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Health",
        (
            Panel("Parts", "bool_yes_no", ((f"lwaftr_part_healthy{BY}", "{{part}}"),), "stat"),
            Panel(
                "Links and next hops",
                "bool_yes_no",
                ((f"lwaftr_port_up{BY}", "{{port}}"), (f"lwaftr_next_hop_resolved{BY}", "next hop {{side}}")),
                "stat",
            ),
            Panel("Version", "none", ((f"lwaftr_build_info{BY}", "{{version}}, DPDK {{dpdk}}, {{march}}"),), "stat"),
        ),
    ),
    (
        "Traffic",
        (
            Panel(
                "Frames",
                "pps",
                (
                    (f"sum by (side) (rate(lwaftr_rx_packets_total{BY}{RATE}))", "received {{side}}"),
                    (f"sum by (side) (rate(lwaftr_tx_packets_total{BY}{RATE}))", "sent {{side}}"),
                ),
            ),
            Panel(
                "Octets",
                "Bps",
                (
                    (f"sum by (side) (rate(lwaftr_rx_bytes_total{BY}{RATE}))", "received {{side}}"),
                    (f"sum by (side) (rate(lwaftr_tx_bytes_total{BY}{RATE}))", "sent {{side}}"),
                ),
            ),
            Panel(
                "Where packets go", "pps", ((f"sum by (edge) (rate(lwaftr_edge_packets_total{BY}{RATE}))", "{{edge}}"),)
            ),
            Panel(
                "Drops by reason",
                "pps",
                ((f"sum by (reason) (rate(lwaftr_drop_packets_total{BY}{RATE})) > 0", "{{reason}}"),),
            ),
            Panel(
                "Frames lost at the ports",
                "pps",
                (
                    (f"rate(lwaftr_port_missed_packets_total{BY}{RATE})", "missed {{port}}"),
                    (f"rate(lwaftr_port_error_packets_total{BY}{RATE})", "errors {{port}} {{direction}}"),
                    (f"sum(rate(lwaftr_tx_failed_total{BY}{RATE}))", "queue full"),
                ),
            ),
            Panel("Waiting packets", "short", ((f"sum by (reason) (lwaftr_held_packets{BY})", "{{reason}}"),)),
        ),
    ),
    (
        "Workers",
        (
            Panel("Share of the frames", "percentunit", ((f"lwaftr_worker_share{BY}", "worker {{worker}}"),)),
            Panel("Busy cycles", "hertz", ((f"rate(lwaftr_busy_cycles_total{BY}{RATE})", "worker {{worker}}"),)),
            Panel(
                "Cycles a frame",
                "short",
                (
                    (
                        CYCLES_A_FRAME,
                        "worker {{worker}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Bindings",
        (
            Panel(
                "Bindings by source",
                "short",
                ((f"lwaftr_bindings{BY}", "{{source}}"), (f"lwaftr_table_room{BY}", "room")),
            ),
            Panel("Fill of the table", "percentunit", ((f"lwaftr_table_fill_ratio{BY}", "slots in use"),)),
            Panel(
                "Updates, 99th percentile",
                "s",
                (
                    (
                        f"histogram_quantile(0.99, sum by (le, source) (rate(lwaftr_update_seconds_bucket{BY}{RATE})))",
                        "{{source}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Leases",
        (
            Panel(
                "Lag behind the DHCP servers",
                "s",
                (
                    (f"lwaftr_lease_lag_seconds{BY}", "{{server}}"),
                    (f"lwaftr_lease_silence_seconds{BY}", "last message of {{server}}"),
                ),
            ),
            Panel("Leases heard and not durable", "short", ((f"lwaftr_lease_changes_queued{BY}", "{{server}}"),)),
            Panel(
                "State of the servers",
                "none",
                ((f"lwaftr_lease_source_state{BY} > 0", "{{server}} {{state}}"),),
                "stat",
            ),
            Panel(
                "Leases",
                "short",
                (
                    (f"lwaftr_leases{BY}", "{{server}}"),
                    (f"lwaftr_leases_quarantined{BY} > 0", "{{server}} quarantined: {{reason}}"),
                    (f"lwaftr_lease_conflicts{BY} > 0", "{{server}} conflict: {{reason}}"),
                ),
            ),
            Panel(
                "Messages",
                "pps",
                (
                    (f"rate(lwaftr_lease_messages_total{BY}{RATE})", "{{server}} {{direction}}"),
                    (f"rate(lwaftr_lease_malformed_total{BY}{RATE})", "{{server}} malformed: {{reason}}"),
                ),
            ),
            Panel(
                "Connections and full bulks",
                "short",
                (
                    (f"increase(lwaftr_lease_connects_total{BY}{RATE})", "{{server}} connects {{connection}}"),
                    (f"increase(lwaftr_lease_bulks_total{BY}{RATE})", "{{server}} bulk {{result}}"),
                    (f"increase(lwaftr_lease_events_total{BY}{RATE}) > 0", "{{server}} {{event}}"),
                ),
            ),
        ),
    ),
    (
        "ICMP and fragments",
        (
            Panel(
                "ICMPv6 errors sent",
                "pps",
                (
                    (f"sum(rate(lwaftr_icmp6_sent_no_binding_total{BY}{RATE}))", "1/5 no binding"),
                    (f"sum(rate(lwaftr_icmp6_suppressed_total{BY}{RATE}))", "not sent: rate"),
                ),
            ),
            Panel(
                "ICMPv4 errors sent",
                "pps",
                (
                    (f"sum(rate(lwaftr_icmp4_sent_unreachable_total{BY}{RATE}))", "3/1"),
                    (f"sum(rate(lwaftr_icmp4_sent_too_big_total{BY}{RATE}))", "3/4"),
                    (f"sum(rate(lwaftr_icmp4_suppressed_total{BY}{RATE}))", "not sent: rate"),
                ),
            ),
            Panel(
                "Fragments",
                "pps",
                (
                    (f"sum(rate(lwaftr_fragments_v6_made_total{BY}{RATE}))", "made v6"),
                    (f"sum(rate(lwaftr_fragments_v4_made_total{BY}{RATE}))", "made v4"),
                    (f"sum(rate(lwaftr_reassembled_total{BY}{RATE}))", "reassembled"),
                ),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        y += 1
        for index, panel in enumerate(row):
            at = {"x": index % 3 * WIDTH, "y": y + index // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, at))
        y += (len(row) + 2) // 3 * HEIGHT
    return {
        "title": "pylwaftr",
        "uid": "pylwaftr",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _instance()]},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(65 + n), "expr": query, "legendFormat": legend} for n, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "gridPos": at,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _instance() -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    query = "label_values(lwaftr_build_info, instance)"
    return {
        "name": "instance",
        "type": "query",
        "datasource": source,
        "query": query,
        "multi": True,
        "includeAll": True,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    return made_file.main(OUT, text(), __file__, arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
