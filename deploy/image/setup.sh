#!/usr/bin/env bash
# What `make image-test` needs of Debian: an emulator, firmware, ssh. Idempotent.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/common.sh
need qemu-system-x86:qemu-system-x86_64 qemu-utils:qemu-img openssh-client:ssh mtools:mcopy \
  dosfstools:mkfs.vfat iproute2:ip dpkg-dev:dpkg-deb etcd-server:etcd
need_file /usr/share/OVMF/OVMF_CODE_4M.fd ovmf
