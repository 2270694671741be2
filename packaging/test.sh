#!/usr/bin/env bash
# `make deb-test`: the package in a bare Debian 12 (a chroot that mmdebstrap makes and removes):
# install, use, upgrade under a running process, remove, purge; nothing may be left.
# Usage: packaging/test.sh [FILE.deb]
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/common.sh

need mmdebstrap dpkg-dev:dpkg-deb
[ "$(id -u)" = 0 ] || die "not root (uid $(id -u)): a chroot needs it; run with sudo"
deb=${1:-$(echo dist/bgf_*.deb)}
[ -f "$deb" ] || die "no package $deb: make deb"

work=$(mktemp -d /var/tmp/bgf-deb-test.XXXXXX)
trap 'rm -rf "$work"' EXIT

step "the same package again, as a later version"
cp "$deb" "$work/old.deb"
dpkg-deb -R "$deb" "$work/new"
sed -i 's/^Version: .*/&+next1/' "$work/new/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/new" "$work/new.deb" >/dev/null

step "a bare Debian 12, and the package in it"
if ! mmdebstrap --quiet --variant=minbase --include=systemd,iproute2,python3 \
  --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
  --customize-hook="copy-in $work/old.deb $work/new.deb packaging/in-chroot.sh /root" \
  --customize-hook="copy-in packaging/etc/node.toml /root" \
  --customize-hook="unshare --mount $PWD/packaging/apart.sh \$1 bash /root/in-chroot.sh >&2" \
  bookworm /dev/null 2>"$work/log"; then
  tail -n 40 "$work/log" >&2
  die "failed (the last lines stand above)"
fi
grep '^in chroot: ' "$work/log"
step "installs, upgrades under a running process and purges without a trace"
