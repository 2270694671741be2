#!/usr/bin/env bash
# Idempotent set-up: Debian packages that are missing, the virtual environment, the C extensions.
# Says what it does; does nothing when nothing has changed. Usage: scripts/setup.sh [bench|bpf|page]
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 3; }

[ "$(uname -s)" = Linux ] || die "this is $(uname -s); the gateway needs Linux 5.15 or later"
[ "$(id -u)" = 0 ] || die "not root (uid $(id -u)); network namespaces and XDP need it: run as root or with sudo"

# name of a file that proves the package is there, and the package
declare -A need=(
  [gcc]=gcc [make]=make [ip]=iproute2 [ethtool]=ethtool [nsenter]=util-linux
  [kamailio]=kamailio [sipp]=sip-tester [etcd]=etcd-server [etcdctl]=etcd-client [setpriv]=util-linux
  [nft]=nftables [promtool]=prometheus [redis-server]=redis-server [spin]=spin
  [rtpengine]=rtpengine-daemon [curl]=curl
)
[ "${1:-}" = page ] && need+=([chromium]=chromium)
[ "${1:-}" = bench ] && need+=([keepalived]=keepalived)
[ "${1:-}" = bpf ] && need+=([clang-14]=clang-14 [llvm-strip-14]=llvm-14 [bpftool]=bpftool)

missing=()
for binary in "${!need[@]}"; do
  command -v "$binary" >/dev/null 2>&1 || [ -x "/usr/sbin/$binary" ] || missing+=("${need[$binary]}")
done
command -v python3 >/dev/null || die "python3 is missing: apt-get install python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "python3 is $(python3 -V 2>&1); 3.11 or later is needed"
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
python3 -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' ||
  missing+=(python3-dev)
[ -e /usr/include/linux/bpf.h ] || missing+=(linux-libc-dev libc6-dev)
# datagrams between state servers are sealed by nettle
[ -e /usr/include/nettle/gcm.h ] || missing+=(nettle-dev)
# the benchmark of the state plane measures Redis through its C client
[ -e /usr/include/hiredis/hiredis.h ] || missing+=(libhiredis-dev)
# the sanitizers' runtimes come with gcc; libbpf's headers are for rebuilding the packet program alone
if [ "${1:-}" = bpf ] && [ ! -e /usr/include/bpf/bpf_helpers.h ]; then missing+=(libbpf-dev); fi

if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  command -v apt-get >/dev/null || die "no apt-get here; install by hand: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  # A package must not start its daemon on this machine: the lab runs its own in namespaces.
  policy=/usr/sbin/policy-rc.d
  made_policy=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made_policy=1; fi
  trap '[ -n "$made_policy" ] && rm -f $policy; rm -f "$log"' EXIT
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get could not install: ${missing[*]} (its last lines stand above)"
  fi
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "creating the virtual environment .venv ($(python3 -V))"
  rm -rf .venv
  python3 -m venv .venv
fi

stamp=$(cat setup.cfg setup.py pyproject.toml $(find bgf statestore -name '*.c' -o -name '*.h' | LC_ALL=C sort) \
  <(.venv/bin/python -VV) | sha256sum | cut -d' ' -f1)
extensions=$(find bgf statestore -name '*.abi3.so' | wc -l)
if [ "$(cat .venv/bgf-stamp 2>/dev/null)" != "$stamp" ] || [ "$extensions" -lt 3 ]; then
  say "installing Python packages and building the C extensions (gcc)"
  log=$(mktemp)
  if ! .venv/bin/python -m pip install --disable-pip-version-check -q -e '.[dev]' >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    die "pip install failed (its last lines stand above)"
  fi
  rm -f "$log"
  printf '%s\n' "$stamp" >.venv/bgf-stamp
fi
say "ready"
