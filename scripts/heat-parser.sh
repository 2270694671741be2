#!/usr/bin/env bash
# OpenStack's Heat for the tests of deploy/openstack: its parser and property schemas, no service.
# Prints the interpreter that has it. Debian's python3-heat is taken where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

version=27.0.1 # the templates keep to what Zed knows too
if /usr/bin/python3 -c 'import heat.engine.hot' 2>/dev/null; then
  echo /usr/bin/python3
  exit 0
fi
here=.venv/heat
if [ "$(cat $here/stamp 2>/dev/null)" != "$version" ]; then
  echo 'setup: installing the parser of OpenStack Heat (once, under a minute)' >&2
  rm -rf $here
  python3 -m venv $here
  log=$(mktemp)
  if ! $here/bin/python -m pip install --disable-pip-version-check -q "openstack-heat==$version" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo 'setup: openstack-heat cannot be installed; apt-get install python3-heat does as well' >&2
    exit 3
  fi
  rm -f "$log"
  echo $version >$here/stamp
fi
echo "$PWD/$here/bin/python"
