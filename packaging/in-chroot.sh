#!/bin/bash
# What packaging/test.sh runs in the bare system. Prints `in chroot: ...` for what stands.
set -euo pipefail
cd /root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
say() { echo "in chroot: $*"; }
fail() { echo "in chroot: FAILED: $*"; exit 1; }
files() {
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root \
    -o -path /var/cache -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/apt \) -prune \
    -o -name __pycache__ -prune -o -print | LC_ALL=C sort
  sort /etc/passwd /etc/group
}

apt-get install -y -qq --no-install-recommends $(apt-get install -s --no-install-recommends ./old.deb |
  sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -v '^bgf$') >/dev/null
files >before

apt-get install -y -qq --no-install-recommends ./old.deb
bgf --version
bgfctl --help >/dev/null
[ "$(id -un "$(id -u bgf)")" = bgf ] || fail "no user bgf"
ls /usr/share/man/man8/bgf.8.gz /usr/share/man/man1/bgfctl.1.gz /usr/include/dal.h >/dev/null
readlink /etc/systemd/system/multi-user.target.wants/bgf.target >/dev/null || fail "bgf.target is not enabled"
for unit in state gateway failover; do
  readlink "/etc/systemd/system/bgf.target.wants/bgf-$unit.service" >/dev/null || fail "bgf-$unit is not enabled"
done
[ ! -e /etc/bgf/node.toml ] || fail "a configuration that nobody wrote"
say "installed: $(bgf --version), $(du -sh /usr/lib/bgf | cut -f1)"

systemd-analyze verify --man=no /lib/systemd/system/bgf.target /lib/systemd/system/bgf-*.service || fail "units"
for unit in /lib/systemd/system/bgf-*.service; do
  systemd-analyze security --offline=true --threshold=30 --no-pager "$unit" | tail -n 1
done
say "the units are well-formed and shut in"

# a file of the machine's own, and a process that runs through an upgrade
cat >/etc/bgf/node.toml <<'EOF'
[node]
id = "n1"
discriminator = 1
run_dir = "/run/bgf"
[state]
address = "dal:///dev/shm/bgf/state"
size_mb = 16
[realms.access]
interface = "lo"
[[groups]]
id = "g1"
preferred = "n1"
control = "127.0.1.1/32"
control_port = 2223
control_realm = "access"
ports = [30000, 30099]
addresses = { access = ["127.0.2.1/32"] }
[media]
pin_dir = "/sys/fs/bpf/bgf"
[control]
default_realms = ["access", "access"]
[failover]
EOF
mkdir -p /dev/shm/bgf
bgf state --config /etc/bgf/node.toml 2>/root/state.log &
pid=$!
for _ in $(seq 100); do [ -S /run/bgf/state.sock ] && break; sleep 0.1; done
bgfctl state status --config /etc/bgf/node.toml >/dev/null || { cat /root/state.log; fail "bgf state does not answer"; }
apt-get install -y -qq --no-install-recommends ./new.deb
[ "$(dpkg-query -W -f '${Version}' bgf)" != "${1:-}" ]
dpkg-query -W -f '${Version}\n' bgf | grep -q next1 || fail "not upgraded"
kill -0 "$pid" || fail "the upgrade ended a running process"
bgfctl state status --config /etc/bgf/node.toml >/dev/null || fail "the old process does not answer the new bgfctl"
[ -e /etc/bgf/node.toml ] || fail "the upgrade took the configuration"
kill "$pid"
wait "$pid" || true
say "upgraded under a running process"

apt-get remove -y -qq bgf
[ -e /etc/bgf/node.toml ] || fail "removal took the configuration"
[ ! -e /dev/shm/bgf ] && [ ! -e /run/bgf ] || fail "removal left the state in memory"
[ ! -e /usr/bin/bgf ] || fail "removal left the program"
apt-get install -y -qq --no-install-recommends ./old.deb
apt-get purge -y -qq bgf
files >after
diff before after || fail "purge left something (above)"
dpkg-query -W bgf 2>/dev/null && fail "dpkg still knows bgf"
say "removed and purged: nothing is left"
