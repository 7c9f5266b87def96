#!/usr/bin/env bash
# run.sh asan|tsan|fuzz PROGRAM...   runs each (AT_ONCE of them at a time), shows the output of those that fail, and
# counts.
set -uo pipefail

flavour=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
# Where a fuzzer puts what it found: kept outside the tree, named in its output.
finds=$here/../../build/sanitized/finds
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

run() {
  local program=$1 name
  name=$(basename "$program")
  case $flavour in
    # TSan of gcc 12 cannot place its shadow where kernels since 6.x randomise the heap: without randomisation it can.
    tsan)
      local -a fixed=()
      setarch -R true 2>/dev/null && fixed=(setarch -R)
      timeout 300 "${fixed[@]}" "$program"
      ;;
    fuzz)
      local corpus=$here/../data/corpus/$name scratch
      mkdir -p "$finds"
      scratch=$(mktemp -d)
      local -a seeds=("$scratch")
      [[ -d $corpus ]] && seeds+=("$corpus")
      timeout $((FUZZ_SECONDS + 60)) "$program" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$finds/$name-" "${seeds[@]}"
      local code=$?
      rm -rf "$scratch"
      return $code
      ;;
    *) timeout 300 "$program" ;;
  esac
}

# Each into a log of its own and its status beside it, AT_ONCE at a time. Of TSan's programs each has threads for all
# CPUs, and a fuzzer's seconds are worth less when it has half a CPU: these go one after the other.
logs=$(mktemp -d) || exit 1
trap 'rm -rf "$logs"' EXIT
running=0
for program in "$@"; do
  ((running < ${AT_ONCE:-1})) || wait -n
  ((running < ${AT_ONCE:-1})) && running=$((running + 1))
  name=$(basename "$program")
  { run "$program" >"$logs/$name" 2>&1; echo $? >"$logs/$name.status"; } &
done
wait

passed=0 failed=0
for program in "$@"; do
  name=$(basename "$program")
  code=$(<"$logs/$name.status")
  if [[ $code == 0 ]]; then  # empty when it could not be written
    passed=$((passed + 1))
    echo "ok      $name"
  else
    failed=$((failed + 1))
    echo "FAILED  $name (exit $code)"
    tail -n 60 "$logs/$name"
  fi
done
echo "$passed passed, $failed failed"
((failed == 0))
