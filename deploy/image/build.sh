#!/usr/bin/env bash
# `make image`: a Debian 12 cloud image with the package in it, dist/bgf_VERSION_amd64.qcow2.
# Boots by BIOS and by UEFI (secure boot too), as QEMU and Nova do. Needs root; no loop devices, no mounts
# of the image: the file system is made from a directory, the boot loader is laid out by disk.py.
# Usage: deploy/image/build.sh [FILE.deb]
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/common.sh

[ "$(id -u)" = 0 ] || die "not root (uid $(id -u)): a chroot needs it; run with sudo"
need mmdebstrap qemu-utils:qemu-img e2fsprogs:mke2fs mtools:mcopy dosfstools:mkfs.vfat fdisk:sfdisk dpkg-dev:dpkg-deb
deb=${1:-$(echo dist/bgf_*.deb)}
[ -f "$deb" ] || die "no package $deb: make deb"
version=$(dpkg-deb -f "$deb" Version)
image=dist/bgf_${version%-*}_amd64.qcow2
files=deploy/image/files
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

work=$(mktemp -d "${TMPDIR:-/var/tmp}/bgf-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/packages" dist
cp "$deb" "$work/packages/bgf.deb"

# what is in it, and why
packages=(
  linux-image-cloud-amd64 initramfs-tools grub-pc-bin grub-efi-amd64-bin grub-efi-amd64-signed shim-signed
  grub-cloud-amd64                      # keeps both boot loaders up to date on a running machine
  systemd-sysv dbus libpam-systemd udev systemd-resolved e2fsprogs fdisk netbase
  cloud-init cloud-guest-utils          # keys, networks, files from the cloud; grows the disk
  openssh-server sudo chrony ca-certificates
  iproute2 iputils-ping ethtool tcpdump curl less bash-completion nano procps kmod
  etcd-server etcd-client               # a state node is made of the same image; off until it is wanted
  python3-openstacksdk                  # hard fencing asks Nova by it; nothing else does
)

step "Debian 12 with $(basename "$deb") (mmdebstrap)"
quietly "$work/log" mmdebstrap --variant=minbase --components=main \
  --include="$(IFS=,; echo "${packages[*]}")" \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --dpkgopt='path-include=/usr/share/doc/bgf/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-include=/usr/share/man/man*/bgf*' \
  --essential-hook='echo grub-pc grub-pc/install_devices_empty boolean true | chroot "$1" debconf-set-selections' \
  --customize-hook="copy-in $work/packages/bgf.deb /tmp" \
  --customize-hook="unshare --mount $PWD/packaging/apart.sh \$1 apt-get install -y --no-install-recommends /tmp/bgf.deb" \
  --customize-hook='rm "$1/tmp/bgf.deb"' \
  --customize-hook="tar -C $files -cf - --owner=0 --group=0 . | tar -C \$1 --no-overwrite-dir -xf -" \
  --customize-hook="$(cat deploy/image/customize.sh)" \
  bookworm "$work/root.tar"
mkdir "$work/root"
tar -C "$work/root" --numeric-owner --xattrs -xf "$work/root.tar"
rm "$work/root.tar"

step "disk: file system, BIOS and UEFI boot loaders"
quietly "$work/log" /usr/bin/python3 deploy/image/disk.py "$work/root" "$work/disk.raw"
rm -rf "$work/root"

step "compressing (qemu-img)"
rm -f dist/bgf_*.qcow2
qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd "$work/disk.raw" "$work/image.qcow2"
mv "$work/image.qcow2" "$image"
(cd dist && sha256sum "$(basename "$image")" >"$(basename "$image").sha256")
step "$image: $(du -h --apparent-size "$image" | cut -f1) compressed, $(du -h "$work/disk.raw" | cut -f1) used of $(du -h --apparent-size "$work/disk.raw" | cut -f1)"
