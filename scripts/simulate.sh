#!/usr/bin/env bash
# The deterministic simulation of DAL's protocol, many seeds over all cores.
# Usage: scripts/simulate.sh [FIRST [COUNT]] (default 1 10000). Prints the seeds that fail and how to replay them.
set -euo pipefail
cd "$(dirname "$0")/.."

first=${1:-1}
count=${2:-10000}
case "$first$count" in *[!0-9]* | '') printf 'simulate: FIRST and COUNT are numbers\n' >&2; exit 2 ;; esac
command -v gcc >/dev/null || { printf 'simulate: gcc is missing: apt-get install gcc\n' >&2; exit 3; }

workers=$(nproc)
here=tests/simulation/dal
binary=build/dal_sim
mkdir -p build
# Every other share is of worlds in which every limit of the engine is met: tables of two places, walks of two items.
for kind in "" -tight; do
  # shellcheck disable=SC2046
  gcc -std=c11 -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE ${kind:+-DNODE_TIGHT} -Istatestore -I$here \
    $(find statestore -name 'seg*.c' -o -name 'link*.c' -o -name 'node*.c' ! -name node_loop.c -o -name 'client*.c') \
    statestore/wire.c statestore/crypto.c \
    $here/dal_sim.c $here/sim_*.c $here/check_*.c $here/wgl.c \
    -Wl,--wrap=clock_gettime,--wrap=getrandom,--wrap=wire_decode -lnettle -o $binary$kind
done

logs=$(mktemp -d -p /dev/shm dal-simulate.XXXXXX 2>/dev/null || mktemp -d)
pids=()
stop() { [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true; rm -rf "$logs"; }
trap stop EXIT
trap "exit 130" INT TERM HUP
printf 'simulate: %s worlds from seed %s, %s at a time\n' "$count" "$first" "$workers"
# Small shares, dealt as workers come free: one slow world holds nobody up.
share=250
done_worlds=0
failed=0
next=$first
end=$((first + count))
begin_one() {
  local n=$share
  [ $((next + n)) -le $end ] || n=$((end - next))
  mkdir "$logs/$next.d"
  local kind=""
  [ $((next / share % 2)) -eq 0 ] || kind=-tight
  $binary$kind --from $next --count $n --quiet --directory "$logs/$next.d" >"$logs/$next" 2>&1 &
  pids+=($!)
  starts+=("$next")
  sizes+=("$n")
  next=$((next + n))
}
starts=()
sizes=()
while [ $next -lt $end ] && [ ${#pids[@]} -lt "$workers" ]; do begin_one; done
while [ ${#pids[@]} -gt 0 ]; do
  wait -n "${pids[@]}" || true
  for i in "${!pids[@]}"; do
    kill -0 "${pids[$i]}" 2>/dev/null && continue
    code=0
    wait "${pids[$i]}" || code=$?
    done_worlds=$((done_worlds + sizes[i]))
    if [ $code -ne 0 ]; then
      failed=1
      [ $((starts[i] / share % 2)) -eq 0 ] || printf 'with tight limits:\n'
      grep -E '^seed|^  replay|ERROR|runtime error' "$logs/${starts[$i]}" || tail -n 5 "$logs/${starts[$i]}"
    fi
    unset "pids[$i]" "starts[$i]" "sizes[$i]"
    [ $next -ge $end ] || begin_one
  done
  pids=("${pids[@]}") starts=("${starts[@]}") sizes=("${sizes[@]}")
  printf 'simulate: %s of %s worlds\n' $done_worlds "$count"
done
if [ $failed -ne 0 ]; then
  printf 'simulate: a seed is replayed by: %s --seed N --trace (%s-tight with tight limits)\n' $binary $binary >&2
  exit 1
fi
printf 'simulate: no rule was broken\n'
