#!/usr/bin/env bash
# The sweeps, one JSON file each: bench/run.sh [quick|full] [FOLDER]
# quick: the baseline in about a minute. full: every direction, size and feature, and 10M bindings (needs 4 GB).
# Windows are short and many: on a shared machine some of them meet a quiet moment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-quick}
out=${2:-bench/results/$(date -u +%Y-%m-%d)-$what}
pylwaftr=${PYLWAFTR:-.venv/bin/pylwaftr}
short=(--windows 400 --seconds 0.002)

measure() { # NAME ARGUMENTS...
  local name=$1
  shift
  echo "== $name: pylwaftr bench $*"
  # shellcheck disable=SC2086 # PYLWAFTR may be a command with arguments
  $pylwaftr bench "$@" --json >"$out/.$name.part"
  mv "$out/.$name.part" "$out/$name.json"
}

case $what in
  quick)
    mkdir -p "$out"
    measure forward forward --directions encap,decap,both --bindings 1,1k,1M "${short[@]}"
    measure table table --bindings 1M
    measure updates updates --bindings 1M "${short[@]}"
    measure start start
    ;;
  full)
    mkdir -p "$out"
    measure forward-bindings forward --directions encap,decap,both,hairpin --bindings 1,1k,100k,1M,10M "${short[@]}"
    measure forward-sizes forward --directions encap,decap,both --bindings 1M --sizes 64,128,256,512,imix,1500 \
      "${short[@]}"
    measure forward-features forward --directions encap,decap --bindings 1M --transport tcp "${short[@]}" \
      --features default,mss-clamp,no-flow-label,encap-limit,pipe-dscp,ecn-compatibility,filter-in,filter-out,capture
    measure table table --bindings 1M,10M
    measure updates updates --bindings 1M,10M --rates 0,1M "${short[@]}" --jobs 5
    measure start start --bindings 1M
    .venv/bin/python scripts/bench_scaling.py --json >"$out/.scaling.part"
    mv "$out/.scaling.part" "$out/scaling.json"
    ;;
  *)
    echo "usage: bench/run.sh [quick|full] [FOLDER]" >&2
    exit 2
    ;;
esac
echo "results: $out"
