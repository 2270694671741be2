#!/usr/bin/env bash
# `make deb`: the Debian package of this tree, into dist/. Needs Debian 12, root for apt-get only.
# Builds a copy of what git knows (with changes that are not committed) in a directory of its own;
# same commit, same package: dates are the last commit's. Usage: packaging/build.sh [--no-test]
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/common.sh

need debhelper:dh dh-python:dh_python3 patchelf pkg-config dpkg-dev:dpkg-buildpackage \
  fakeroot lintian gcc make python3-pip:pip3
need_file /usr/include/python3.11/Python.h python3-dev
need_file /usr/include/nettle/gcm.h nettle-dev
need_python setuptools python3-setuptools

work=$(mktemp -d /var/tmp/bgf-deb.XXXXXX)
trap 'rm -rf "$work"' EXIT
tree=$work/bgf
mkdir -p "$tree"

step "copying the tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  [ -e "$file" ] && printf '%s\0' "$file"
done | tar --null -T - -cf - | tar -C "$tree" -xf -
mv "$tree/packaging/debian" "$tree/debian"
version=$(sed -n 's/^version = //p' setup.cfg)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
cat >"$tree/debian/changelog" <<EOF
bgf ($version-1) bookworm; urgency=medium

  * See changelog.gz beside this file.

 -- bgf developers <bgf@localhost>  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
EOF

step "fetching the vendored libraries, checked by hash"
quietly "$work/pip.log" /usr/bin/python3 -m pip download --disable-pip-version-check --no-deps \
  --only-binary :all: --python-version 3.11 --require-hashes -r packaging/vendored.txt -d "$tree/vendor"

step "building (dpkg-buildpackage)"
(cd "$tree" && PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
  quietly "$work/build.log" dpkg-buildpackage -b -us -uc -ui)

deb=$(echo "$work"/bgf_*_"$(dpkg --print-architecture)".deb)
step "checking (lintian)"
quietly "$work/lintian.log" env TMPDIR="$work" lintian --fail-on error --suppress-tags-from-file packaging/lintian-tags "$deb"
grep -E '^[EW]:' "$work/lintian.log" || true

mkdir -p dist
rm -f dist/bgf_*.deb
cp "$deb" dist/
deb=dist/$(basename "$deb")
step "$deb, $(du -h "$deb" | cut -f1), installed $(dpkg-deb -f "$deb" Installed-Size) KiB"
