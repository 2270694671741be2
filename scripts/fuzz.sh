#!/bin/bash
# Fuzz what reads bytes from the network: scripts/fuzz.sh [SECONDS|replay] [TARGET...]
#
# Every target for SECONDS (60), one after the other, from the inputs that it makes for itself; one
# line per target; not 0 when one crashed. `replay` runs those first inputs alone, with gcc.
# `ng` is what reads control's bytes, in Python (tests/fuzz/fuzz_ng.py); PYTHON says with which one.
# Fuzzing needs clang 14 with its runtime; installs it if it is missing and we are root.
# FUZZ_DIR: where to build and keep the inputs (default: a directory of its own, removed at the end
# unless something crashed). FUZZ_SEED: where the random numbers begin (default: anywhere).
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[[ $seconds =~ ^([1-9][0-9]*|replay)$ ]] || {
    echo "fuzz.sh: SECONDS is a number, not '$seconds'" >&2
    exit 2
}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for source in tests/fuzz/fuzz_*.c; do
        target=${source##*/fuzz_}
        case $target in
        main.c | crypto.c) ;; # these serve the others
        *) targets+=("${target%.c}") ;;
        esac
    done
    targets+=(ng)
fi

have_clang() {
    command -v clang-14 >/dev/null &&
        [ -e "$(clang-14 --print-runtime-dir)/libclang_rt.fuzzer-$(uname -m).a" ]
}
if [ "$seconds" != replay ] && [ "${targets[*]}" != ng ] && ! have_clang; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "fuzz.sh: clang-14 is missing: apt-get install clang-14 libclang-rt-14-dev" >&2
        exit 2
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends clang-14 libclang-rt-14-dev >/dev/null
fi

keep=${FUZZ_DIR:-}
directory=${FUZZ_DIR:-$(mktemp -d)}
crashed=0
clean() { [ -n "$keep" ] || [ "$crashed" -ne 0 ] || rm -rf "$directory"; }
trap clean EXIT

# The sources of one target besides its own file.
sources() {
    case $1 in
    wire | lists) echo statestore/wire.c ;;
    keys) echo statestore/keys.c ;;
    link_raw) echo statestore/link*.c statestore/crypto.c ;;
    link_sealed) echo statestore/link*.c tests/fuzz/fuzz_crypto.c ;;
    node) ls statestore/node*.c statestore/seg*.c statestore/wire.c | grep -v node_loop ;;
    *)
        echo "fuzz.sh: no such target: $1" >&2
        return 1
        ;;
    esac
}

# One line, and what is known about a crash.
report() {
    printf '%-12s %10s runs %6s seconds %2s crashes\n' "$1" "${2:-?}" "$seconds" "$3"
    if [ "$3" -ne 0 ]; then
        crashed=1
        grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$directory/$1.log" | head -5 || true
        echo "  see $directory/$1.log"
    fi
}

flags=(-std=c11 -O1 -g -D_GNU_SOURCE -Wall -Wextra -Istatestore -fno-sanitize-recover=all)
for target in "${targets[@]}"; do
    if [ "$target" = ng ]; then
        mkdir -p "$directory/crashes"
        PYTHONPATH=. "${PYTHON:-.venv/bin/python}" tests/fuzz/fuzz_ng.py "$seconds" "$directory/crashes" \
            2>"$directory/ng.log" || crashed=1
        head -40 "$directory/ng.log"
        continue
    fi
    more=$(sources "$target")
    # shellcheck disable=SC2206 # no file here has a space in its name
    files=(tests/fuzz/fuzz_"$target".c $more)
    inputs=$directory/$target
    log=$directory/$target.log
    mkdir -p "$inputs" "$directory/crashes"
    # The link seals for real. The member has its own clock and dice, and tables small enough for a member per input.
    extra=()
    [ "$target" != link_raw ] || extra=(-lnettle)
    [ "$target" != node ] || extra=(-DNODE_MANY=512u -Dclock_gettime=fuzz_clock -Dgetrandom=fuzz_random -lpthread)
    sanitize=()
    [ "$seconds" != replay ] || sanitize=(-fsanitize=address,undefined)
    gcc "${flags[@]}" "${sanitize[@]}" "${files[@]}" tests/fuzz/fuzz_main.c \
        "${extra[@]}" -o "$directory/seed_$target"
    "$directory/seed_$target" --seeds "$inputs" >/dev/null
    crashes=0
    if [ "$seconds" = replay ]; then
        "$directory/seed_$target" "$inputs"/* >"$log" 2>&1 || crashes=1
        report "$target" "$(sed -n 's/ inputs$//p' "$log")" "$crashes"
        continue
    fi
    clang-14 "${flags[@]}" -fsanitize=fuzzer,address,undefined "${files[@]}" \
        "${extra[@]}" -o "$directory/fuzz_$target"
    "$directory/fuzz_$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 \
        -rss_limit_mb=1024 -print_final_stats=1 -seed="${FUZZ_SEED:-0}" -artifact_prefix="$directory/crashes/$target-" \
        "$inputs" >"$log" 2>&1 || crashes=1
    report "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$crashes"
done
exit "$crashed"
