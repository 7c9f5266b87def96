#!/usr/bin/env bash
# The sweeps, one JSON file and one picture each: bench/run.sh [quick|full] [FOLDER]
# quick: the baseline in about a minute. full: every direction, size and feature, and 10M bindings (needs 4 GB), in about a
# quarter of an hour. Pictures need matplotlib: .venv/bin/pip install matplotlib. More: scripts/bench_sweep.py --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-quick}
case $what in
  quick | full) ;;
  *)
    echo "usage: bench/run.sh [quick|full] [FOLDER]" >&2
    exit 2
    ;;
esac
exec .venv/bin/python scripts/bench_sweep.py --out "${2:-bench/results/$(date -u +%Y-%m-%d)-$what}" "$what"
