# mmdebstrap runs this (sh -e) with the tree as $1, after the package is in: what no file can say.
set -e
inside() { chroot "$root" "$@"; }
root=$1
# services that wait until somebody wants them
inside systemctl disable etcd.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  e2scrub_reap.service
inside systemctl enable systemd-networkd.service systemd-resolved.service chrony.service ssh.service
# haste is for builds
sed -i /force-unsafe-io/d "$root"/etc/dpkg/dpkg.cfg.d/*
# no password opens anything
inside passwd --lock root
# each machine is somebody else: its keys, ids and seeds are made at its first boot
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/systemd/random-seed "$root"/var/lib/dbus/machine-id
: >"$root/etc/machine-id"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log "$root"/var/log/apt
rm -f "$root"/var/cache/debconf/*-old "$root"/etc/resolv.conf
echo bgf >"$root/etc/hostname"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
