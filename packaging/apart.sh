#!/bin/sh
# Runs a command in a chroot whose shared memory is not this machine's: a node may run here, and the
# package's scripts make and remove its directories. Usage: unshare --mount apart.sh ROOT COMMAND...
set -e
root=$1
shift
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
exec chroot "$root" "$@"
