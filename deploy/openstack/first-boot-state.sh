#!/bin/sh
# Run once by cloud-init on a state node: have etcd, start it with the settings written beside this,
# wait until it has a quorum, tell Heat. Knows nothing of gateways.
set -u
root=${BGF_ROOT:-}
deadline=$(($(date +%s) + @timeout_s@ - 30))

say() { printf 'bgf-first-boot: %s\n' "$*"; }
plain() { printf '%s' "$*" | tr -d '"\\' | tr -cs '[:print:]' ' ' | cut -c1-400; }
fail() { say "$*"; "$root/etc/bgf/tell-heat" FAILURE "@node@: $(plain "$*")"; exit 1; }

if ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
  said=$( (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y -o Dpkg::Options::=--force-confold etcd-server etcd-client) 2>&1) ||
    fail "etcd-server and etcd-client cannot be installed: $(printf '%s' "$said" | tail -n 1)"
fi
systemctl enable etcd >/dev/null 2>&1
systemctl restart etcd || say "etcd waits for its peers"
until curl --silent --fail --max-time 2 http://127.0.0.1:2379/health | grep -q '"true"'; do
  [ "$(date +%s)" -lt "$deadline" ] || fail "etcd has no quorum in time"
  sleep "${BGF_PAUSE_S:-2}"
done
say "healthy"
"$root/etc/bgf/tell-heat" SUCCESS "@node@ is healthy"
