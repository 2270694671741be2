#!/usr/bin/env bash
# A cluster on a real OpenStack control plane: brings the lab up, runs tests/openstack, takes the lab
# down again. With OSLAB_WORKDIR an own lab stays up afterwards, for the next run.
# Usage: scripts/openstack-test.sh LAB_DIRECTORY [WORDS FOR PYTEST]
set -euo pipefail
cd "$(dirname "$0")/.."

lab=${1:-../shared/openstack-lab}
[ -x "$lab/up.sh" ] || {
  printf 'openstack-test: no %s/up.sh: give OPENSTACK_LAB=DIRECTORY\n' "$lab" >&2
  exit 3
}
lab=$(cd "$lab" && pwd)
# as many hosts as the largest cluster of the tests has gateways: no two of them share one
export OSLAB_COMPUTES=${OSLAB_COMPUTES:-4}
if [ -z "${OSLAB_WORKDIR:-}" ]; then
  OSLAB_WORKDIR=$(mktemp -d)
  export OSLAB_WORKDIR
  trap '"$lab/down.sh" --wipe' EXIT
fi
"$lab/up.sh"
export OS_CLIENT_CONFIG_FILE=$OSLAB_WORKDIR/clouds.yaml OS_CLOUD=oslab OPENSTACK_LAB=$lab PYTHONPATH=$PWD
"${PYTHON:-.venv/bin/python}" -m pytest tests/openstack "${@:2}"
