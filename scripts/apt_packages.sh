#!/usr/bin/env bash
# apt_packages.sh missing | install
# The Debian 12 packages that building, running and testing need. `install` asks apt only for what is missing.
set -euo pipefail

# Without these nothing can be built.
build=(build-essential pkg-config python3-dev python3-venv libdpdk-dev libpcap-dev)
others=(
  # run: EAL's drivers and tools, and what the lab's hosts are made of
  dpdk dpdk-dev nftables iproute2 iputils-ping iputils-tracepath traceroute ethtool tcpdump curl openssl ca-certificates
  # test: fuzzing (clang 16 is the first that compiles all of our C++20), second opinions, shell scripts
  clang-16 libclang-rt-16-dev valgrind tshark shellcheck kea-dhcp4-server kea-dhcp6-server miniupnpd
)

missing() { # packages -> those that are not installed, one a line
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# The lists may be absent (fresh machine) or old (a package has moved on): then once more with new ones.
apt_install() {
  local -a apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  export DEBIAN_FRONTEND=noninteractive
  "${apt[@]}" install -y --no-install-recommends "$@" ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; }
}

install() {
  local -a wanted needed
  mapfile -t wanted < <(missing "${build[@]}" "${others[@]}")
  ((${#wanted[@]})) || return 0
  if ((EUID != 0)); then
    mapfile -t needed < <(missing "${build[@]}")
    echo "Debian packages are missing; as root: make setup, or: apt-get install --no-install-recommends ${wanted[*]}" >&2
    ((${#needed[@]} == 0)) || return 1
    echo "(the build does not need them; some tests and the lab do)" >&2
    return 0
  fi
  echo "installing Debian packages: ${wanted[*]}"
  local log
  log=$(mktemp)
  if ! apt_install "${wanted[@]}" >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    echo "apt-get could not install: ${wanted[*]} (all it said: $log)" >&2
    return 1
  fi
  rm -f "$log"
}

case ${1:-} in
  missing) missing "${build[@]}" "${others[@]}" ;;
  install) install ;;
  *)
    echo "usage: $0 missing | install" >&2
    exit 2
    ;;
esac
