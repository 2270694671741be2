#!/bin/sh
# Run once by cloud-init on a gateway: put the interfaces' real names into the file, start, wait until
# this node could take a group over, tell Heat. `first-boot place` does the first alone, for a file that
# came later. Knows MAC addresses and the deadline, nothing of calls.
set -u
mode=${1:-boot}
root=${BGF_ROOT:-}
file=$root/etc/bgf/node.toml
deadline=$(($(date +%s) + @timeout_s@ - 30))

say() { printf 'bgf-first-boot: %s\n' "$*"; }
plain() { printf '%s' "$*" | tr -d '"\\' | tr -cs '[:print:]' ' ' | cut -c1-400; }
fail() { say "$*"; [ "$mode" = place ] || "$root/etc/bgf/tell-heat" FAILURE "@node@: $(plain "$*")"; exit 1; }

# realm and MAC address: the image may name interfaces differently than the file supposes
place() {
  for interface in "$root"/sys/class/net/*; do
    [ "$(cat "$interface/address" 2>/dev/null)" = "$2" ] || continue
    sed -i "/^\[realms\.$1\]/,/^interface/ s|^interface = .*|interface = \"${interface##*/}\"|" "$file"
    return
  done
  fail "no interface has the MAC address $2 of the $1 network"
}
place management @management_mac@
place access @access_mac@
place core @core_mac@
[ "$mode" != place ] || exit 0

# the services' user reads the key, and nobody else
id bgf >/dev/null 2>&1 && chown bgf: "$root/etc/bgf/cluster.key"
[ ! -e "$root/etc/bgf/clouds.yaml" ] || chown bgf: "$root/etc/bgf/clouds.yaml"

systemctl enable --now bgf.target || fail "bgf.target does not start: $(systemctl --failed --plain --no-legend)"
until said=$(bgfctl ready "@node@" --config "$file" 2>&1); do
  [ "$(date +%s)" -lt "$deadline" ] || fail "not ready in time: $said"
  sleep "${BGF_PAUSE_S:-2}"
done
say "ready"
"$root/etc/bgf/tell-heat" SUCCESS "@node@ is ready"
