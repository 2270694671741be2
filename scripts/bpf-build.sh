#!/usr/bin/env bash
# Builds the committed light skeletons of the packet programs (clang-14, bpftool), for those who
# change a program; users need neither. The same input gives the same bytes from any directory.
# Usage: scripts/bpf-build.sh           write the skeletons
#        scripts/bpf-build.sh --check   compare with the committed ones; writes nothing
set -euo pipefail
cd "$(dirname "$0")/.."

CLANG=${CLANG:-clang-14}
STRIP=${STRIP:-llvm-strip-14}
# directory, source, name of the skeleton file, name of its C structure
PROGRAMS=(
  "bgf/media/bpf bgf.bpf.c bgf bgf"
  "bgf/lab/bpf rtpload.bpf.c rtpload rtpload_bpf"
  "bgf/lab/bpf rtpbench.bpf.c rtpbench rtpbench_bpf"
)

die() { printf 'bpf-build: %s\n' "$*" >&2; exit 3; }
check=
case "${1:-}" in
  --check) check=1 ;;
  '') ;;
  *) die "unknown argument '$1': use --check or nothing" ;;
esac
# bpftool lives in sbin, which a plain user's PATH lacks
PATH=$PATH:/usr/sbin:/sbin
command -v "$CLANG" >/dev/null || die "$CLANG is missing: apt-get install clang-14"
command -v "$STRIP" >/dev/null || die "$STRIP is missing: apt-get install llvm-14"
command -v bpftool >/dev/null || die "bpftool is missing: apt-get install bpftool"
[ -e /usr/include/bpf/bpf_helpers.h ] || die "libbpf's headers are missing: apt-get install libbpf-dev"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
multiarch=/usr/include/$(uname -m)-linux-gnu
stale=0
for program in "${PROGRAMS[@]}"; do
  read -r dir source name struct <<<"$program"
  out=$dir/$name.lskel.h
  # Compiled from its own directory under a relative name, so that no path of this machine gets
  # into the line information.
  (
    cd "$dir"
    "$CLANG" -std=gnu11 -O2 -g -mcpu=v3 -target bpf -Wall -Wextra -Werror \
      -fdebug-compilation-dir=. -isystem "$multiarch" -I. -I"$OLDPWD/bgf/media/bpf" \
      -c "$source" -o "$work/$name.o"
  )
  "$STRIP" -g "$work/$name.o" # DWARF goes, BTF stays
  # Our own header stands in for libbpf's; found beside the skeleton or by the include path.
  bpftool gen skeleton -L "$work/$name.o" name "$struct" |
    sed 's|<bpf/skel_internal.h>|"skel_internal.h"|' >"$work/$name.lskel.h"
  [ "$(wc -l <"$work/$name.lskel.h")" -gt 100 ] || die "bpftool made nothing of $dir/$source"
  if cmp -s "$work/$name.lskel.h" "$out"; then
    echo "bpf-build: $out is up to date"
  elif [ -n "$check" ]; then
    echo "bpf-build: $out is not what $source gives: run 'make bpf' and commit it" >&2
    stale=1
  else
    cp "$work/$name.lskel.h" "$out"
    echo "bpf-build: $out written"
  fi
done
exit $stale
