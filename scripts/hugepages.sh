#!/usr/bin/env bash
# Hugepages for DPDK: shows, reserves, mounts, and gives back what it reserved itself. See --help.
#
# Theory. The kernel keeps one number per NUMA node and page size (nr_hugepages), shared by every program of the host.
# So this script only ever raises it, and notes in STATE_DIR, per node and size, "by how much" and "what was there before".
# `release` lowers the number by its own share and never below what it found. /run, like the pages, is empty after a boot.
set -euo pipefail

# The four are for tests on a made-up tree.
SYSFS_ROOT=${SYSFS_ROOT:-/sys}
PROC_ROOT=${PROC_ROOT:-/proc}
ETC_ROOT=${ETC_ROOT:-/etc}
STATE_DIR=${STATE_DIR:-/run/pylwaftr/hugepages}

usage() {
  cat <<'TXT'
usage: hugepages.sh [COMMAND] [OPTIONS]

  show      pages per NUMA node and size, how many are free and how many this tool reserved; mounts (the default)
  reserve   have at least so many pages; what is there already counts, nothing is ever taken away
  mount     have a hugetlbfs for a page size (does nothing when there is one)
  release   give back what `reserve` and `mount` of this tool made, and nothing else

  --size 2M|1G       page size (default 2M; show and release: all sizes)
  --count N          reserve: pages in all
  --memory 4G        reserve: the same, said in memory; rounded up to whole pages
  --node N           this NUMA node only (default: all nodes, evenly)
  --mountpoint DIR   mount: where (default /dev/hugepages, for 1G pages /dev/hugepages-1G)
  --persist          reserve: at every boot too (a drop-in in /etc/tmpfiles.d; release removes it)
  --json             show: for programs
  --dry-run          say what would be done, change nothing
  --quiet            print only what went wrong
  --help

Exit codes: 0 done, 1 not (or not all) to be had, 2 wrong usage.
TXT
}

fail() {
  echo "hugepages: $1" >&2
  exit "${2:-1}"
}
say() { [[ -n $quiet ]] || echo "$*"; }

# "2M" -> 2048, "1G" -> 1048576: KiB
kib() {
  [[ $1 =~ ^([1-9][0-9]{0,8})([KkMmGgTt])i?[Bb]?$ ]] || fail "'$1' is no amount of memory: write it like 2M or 4G" 2
  case ${BASH_REMATCH[2]} in
    [Kk]) echo "${BASH_REMATCH[1]}" ;;
    [Mm]) echo $((BASH_REMATCH[1] * 1024)) ;;
    [Gg]) echo $((BASH_REMATCH[1] * 1024 * 1024)) ;;
    *) echo $((BASH_REMATCH[1] * 1024 * 1024 * 1024)) ;;
  esac
}
size_name() {
  if (($1 % 1048576 == 0)); then echo "$(($1 / 1048576))G"; elif (($1 % 1024 == 0)); then echo "$(($1 / 1024))M"; else echo "$1K"; fi
}

# One line per NUMA node: its number. A kernel without NUMA has node 0.
nodes() {
  local folder
  local -a found=()
  for folder in "$SYSFS_ROOT"/devices/system/node/node[0-9]*; do
    if [[ -d $folder/hugepages ]]; then found+=("${folder##*/node}"); fi
  done
  printf '%s\n' "${found[@]:-0}" | sort -n
}
# node -> the folder that holds its hugepages-*kB
node_folder() {
  local folder=$SYSFS_ROOT/devices/system/node/node$1/hugepages
  [[ -d $folder ]] || folder=$SYSFS_ROOT/kernel/mm/hugepages
  echo "$folder"
}
sizes() { # node -> its page sizes in KiB
  local folder
  for folder in "$(node_folder "$1")"/hugepages-*kB; do
    [[ -d $folder ]] && basename "$folder" | tr -dc '0-9\n'
  done | sort -n
}
pages() { # node, KiB, nr|free|surplus
  local file count=
  file=$(node_folder "$1")/hugepages-${2}kB/${3}_hugepages
  if [[ -r $file ]]; then count=$(<"$file"); fi
  echo "${count:-0}"
}

# State of one node and size: "own baseline"
state_file() { echo "$STATE_DIR/node$1-${2}kB"; }
own_pages() {
  local own=0
  [[ -r $(state_file "$1" "$2") ]] && read -r own _ <"$(state_file "$1" "$2")"
  echo "$own"
}

# node, KiB, pages -> 0 when the kernel has (or, lowering, no longer has) that many
set_pages() {
  local file
  file=$(node_folder "$1")/hugepages-${2}kB/nr_hugepages
  { echo "$3" >"$file"; } 2>/dev/null ||
    fail "cannot write $file: run as root; inside a container (where /sys is read-only) do it on the host"
}

hugetlb_mounts() { # "mountpoint KiB" a line
  local kind where options default
  default=$(awk '/^Hugepagesize:/ {print $2}' "$PROC_ROOT/meminfo" 2>/dev/null)
  while read -r _ where kind options _; do
    [[ $kind == hugetlbfs ]] || continue
    if [[ $options =~ pagesize=([0-9]+[KMG]) ]]; then echo "$where $(kib "${BASH_REMATCH[1]}")"; else echo "$where ${default:-2048}"; fi
  done <"$PROC_ROOT/mounts"
}

show() {
  local n kb rows=() mounts=() where
  for n in "${chosen[@]}"; do
    for kb in $(sizes "$n"); do
      [[ -n $size && $kb != "$size_kib" ]] && continue
      rows+=("$n $(size_name "$kb") $(pages "$n" "$kb" nr) $(pages "$n" "$kb" free) $(own_pages "$n" "$kb")")
    done
  done
  while read -r where kb; do mounts+=("$where $(size_name "$kb")"); done < <(hugetlb_mounts)
  if [[ -n $json ]]; then
    local row=() comma=
    printf '{"pages": ['
    for n in "${rows[@]}"; do
      read -r -a row <<<"$n"
      printf '%s{"node": %d, "size": "%s", "total": %d, "free": %d, "reserved_here": %d}' "$comma" "${row[@]}"
      comma=', '
    done
    printf '], "mounts": ['
    comma=
    for n in "${mounts[@]}"; do
      printf '%s{"mountpoint": "%s", "size": "%s"}' "$comma" "${n% *}" "${n##* }"
      comma=', '
    done
    printf ']}\n'
    return
  fi
  printf '%-5s %-5s %8s %8s %s\n' node size total free "reserved by this tool"
  ((${#rows[@]})) && printf '%s\n' "${rows[@]}" | while read -r -a row; do printf '%-5s %-5s %8s %8s %s\n' "${row[@]}"; done
  if ((${#mounts[@]})); then printf 'mounted: %s\n' "${mounts[@]}"; else echo "mounted: none"; fi
}

grub_line() { # KiB, pages
  local name
  name=$(size_name "$1")
  cat >&2 <<TXT
  at boot there is room: add to GRUB_CMDLINE_LINUX in /etc/default/grub
    default_hugepagesz=$name hugepagesz=$name hugepages=$2
  then: update-grub and reboot
TXT
}

# Raises one node to `want` pages; 1 when the kernel gave fewer.
grow_node() { # node, KiB, want
  local before got own baseline
  before=$(pages "$1" "$2" nr)
  if ((before >= $3)); then
    say "node $1: $before pages of $(size_name "$2"), enough"
    return 0
  fi
  if [[ -n $dry_run ]]; then
    say "would raise node $1 from $before to $3 pages of $(size_name "$2")"
    return 0
  fi
  set_pages "$1" "$2" "$3"
  got=$(pages "$1" "$2" nr)
  if ((got < $3)); then # free memory may only be scattered: ask the kernel to gather it, once
    { echo 1 >"$PROC_ROOT/sys/vm/compact_memory"; } 2>/dev/null || true
    set_pages "$1" "$2" "$3"
    got=$(pages "$1" "$2" nr)
  fi
  if ((got > before)); then
    own=0 baseline=$before
    [[ -r $(state_file "$1" "$2") ]] && read -r own baseline <"$(state_file "$1" "$2")"
    mkdir -p "$STATE_DIR"
    echo "$((own + got - before)) $baseline" >"$(state_file "$1" "$2")"
  fi
  if ((got < $3)); then
    echo "hugepages: node $1 has $got pages of $(size_name "$2"), not $3: there is not that much unbroken free memory" >&2
    return 1
  fi
  say "node $1: $got pages of $(size_name "$2") ($((got - before)) added)"
}

reserve() {
  local kb=$size_kib want n share i=0 missed=
  [[ -n $count && -n $memory ]] && fail "--count and --memory say the same thing: give one" 2
  [[ -z $count && -z $memory ]] && fail "reserve needs --count or --memory" 2
  want=$count
  if [[ -n $memory ]]; then
    want=$(kib "$memory")
    want=$(((want + kb - 1) / kb))
  fi
  [[ $want =~ ^[1-9][0-9]{0,8}$ ]] || fail "--count takes a number of pages from 1 on, not '$want'" 2
  for n in "${chosen[@]}"; do
    sizes "$n" | grep -qx "$kb" ||
      fail "no pages of $(size_name "$kb") on node $n (there are: $(sizes "$n" | while read -r s; do size_name "$s"; done | paste -sd ' '))"
  done
  for n in "${chosen[@]}"; do
    share=$((want / ${#chosen[@]} + (i < want % ${#chosen[@]} ? 1 : 0)))
    i=$((i + 1))
    grow_node "$n" "$kb" "$share" || missed=1
    [[ -z $persist ]] || persist_node "$n" "$kb" "$share"
  done
  if [[ -n $missed ]]; then
    echo "  what was had is kept; stop programs that use much memory and try again, ask for less, or give it back: $0 release" >&2
    grub_line "$kb" "$want"
    exit 1
  fi
}

drop_in() { echo "$ETC_ROOT/tmpfiles.d/pylwaftr-hugepages.conf"; }
persist_node() { # node, KiB, pages: systemd-tmpfiles writes the number early at boot
  local target line
  target=$(node_folder "$1")/hugepages-${2}kB/nr_hugepages
  line="w $target - - - - $3"
  if [[ -n $dry_run ]]; then
    say "would write to $(drop_in): $line"
    return
  fi
  mkdir -p "$(dirname "$(drop_in)")"
  touch "$(drop_in)"
  { grep -vF -- "w $target " "$(drop_in)" || true; echo "$line"; } >"$(drop_in).new"
  mv "$(drop_in).new" "$(drop_in)"
  say "at boot: $3 pages of $(size_name "$2") on node $1 ($(drop_in))"
}

mount_pages() {
  local kb=$size_kib where found
  where=$mountpoint
  if [[ -z $where ]]; then
    where=/dev/hugepages
    ((kb == 2048)) || where=/dev/hugepages-$(size_name "$kb")
    found=$(hugetlb_mounts | awk -v kb="$kb" '$2 == kb {print $1; exit}')
  else
    found=$(hugetlb_mounts | awk -v kb="$kb" -v at="$where" '$2 == kb && $1 == at {print $1; exit}')
  fi
  if [[ -n $found ]]; then
    say "pages of $(size_name "$kb") are mounted at $found"
    return
  fi
  if [[ -n $dry_run ]]; then
    say "would mount pages of $(size_name "$kb") at $where"
    return
  fi
  { mkdir -p "$where" && mount -t hugetlbfs -o "pagesize=${kb}K" nodev "$where"; } 2>/dev/null ||
    fail "cannot mount a hugetlbfs at $where: run as root; inside a container do it on the host"
  mkdir -p "$STATE_DIR"
  echo "$where" >>"$STATE_DIR/mounts"
  say "mounted pages of $(size_name "$kb") at $where"
}

# Lowers one node by what this tool added, never below what it had found.
release_node() { # node, KiB
  local own baseline now target got
  read -r own baseline <"$(state_file "$1" "$2")"
  now=$(pages "$1" "$2" nr)
  target=$((now - own > baseline ? now - own : baseline))
  if ((target > now)); then target=$now; fi # somebody else has given back already
  if [[ -n $dry_run ]]; then
    say "would lower node $1 from $now to $target pages of $(size_name "$2")"
    return
  fi
  ((target == now)) || set_pages "$1" "$2" "$target"
  rm -f "$(state_file "$1" "$2")"
  # Pages in use stay as surplus and go when their program ends.
  got=$(($(pages "$1" "$2" nr) - $(pages "$1" "$2" surplus)))
  ((got <= target)) || fail "node $1 still has $got pages of $(size_name "$2"), not $target"
  say "node $1: $target pages of $(size_name "$2") ($((now - target)) given back)"
}

release() {
  local file n kb found=
  for file in "$STATE_DIR"/node*-*kB; do
    [[ -f $file ]] || continue
    [[ $file =~ node([0-9]+)-([0-9]+)kB$ ]]
    n=${BASH_REMATCH[1]} kb=${BASH_REMATCH[2]}
    [[ -n $node && $n != "$node" ]] && continue
    [[ -n $size && $kb != "$size_kib" ]] && continue
    release_node "$n" "$kb"
    found=1
  done
  [[ -n $node || -n $size ]] || release_rest
  [[ -n $found ]] || say "nothing to give back: this tool has reserved no pages"
}

release_rest() { # mounts and the drop-in, when everything goes
  local where
  if [[ -f $STATE_DIR/mounts ]]; then
    while read -r where; do
      if [[ -n $dry_run ]]; then say "would unmount $where"; else umount "$where" && say "unmounted $where"; fi
    done <"$STATE_DIR/mounts"
    [[ -n $dry_run ]] || rm -f "$STATE_DIR/mounts"
  fi
  if [[ -f $(drop_in) ]]; then
    if [[ -n $dry_run ]]; then say "would remove $(drop_in)"; else rm -f "$(drop_in)" && say "removed $(drop_in)"; fi
  fi
}

command=show
size='' count='' memory='' node='' mountpoint='' json='' persist='' dry_run='' quiet=''
case ${1:-} in
  show | reserve | mount | release) command=$1 && shift ;;
esac
while (($#)); do
  case $1 in
    --size | --count | --memory | --node | --mountpoint)
      (($# > 1)) || fail "$1 needs a value" 2
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --json) json=1 && shift ;;
    --persist) persist=1 && shift ;;
    --dry-run) dry_run=1 && shift ;;
    --quiet) quiet=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown word '$1' (see --help)" 2 ;;
  esac
done

size_kib=$(kib "${size:-2M}")
mapfile -t chosen < <(nodes)
if [[ -n $node ]]; then
  nodes | grep -qx -- "$node" || fail "there is no NUMA node $node here (there are: ${chosen[*]})" 2
  chosen=("$node")
fi

case $command in
  show) show ;;
  mount) mount_pages ;;
  *)
    # Two calls at the same time would both count the same growth as theirs.
    if [[ -z $dry_run ]] && mkdir -p "$STATE_DIR" 2>/dev/null && [[ -w $STATE_DIR ]]; then
      exec 8>"$STATE_DIR/lock" && flock 8
    fi
    "$command"
    ;;
esac
