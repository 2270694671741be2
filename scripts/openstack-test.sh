#!/usr/bin/env bash
# A cluster on a real OpenStack control plane: brings the lab up unless OS_CLOUD names a cloud, runs
# tests/openstack, takes the lab down again. Usage: scripts/openstack-test.sh LAB_DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."

lab=${1:-../shared/openstack-lab}
if [ -z "${OSLAB_WORKDIR:-}" ]; then
  [ -x "$lab/up.sh" ] || {
    printf 'openstack-test: no %s/up.sh: give OPENSTACK_LAB=DIRECTORY\n' "$lab" >&2
    exit 3
  }
  OSLAB_WORKDIR=$(mktemp -d)
  export OSLAB_WORKDIR OSLAB_COMPUTES=${OSLAB_COMPUTES:-3}
  trap '"$lab/down.sh" --wipe' EXIT
  "$lab/up.sh"
fi
export OS_CLIENT_CONFIG_FILE=$OSLAB_WORKDIR/clouds.yaml OS_CLOUD=oslab PYTHONPATH=$PWD
"${PYTHON:-.venv/bin/python}" -m pytest tests/openstack "${@:2}"
