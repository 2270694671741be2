#!/usr/bin/env bash
# An earlier version from this repository's history, with its extensions built, for
# `bgfctl chaos --previous DIR`. Prints its directory; made once. Usage: scripts/previous.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'previous: %s\n' "$*" >&2; exit 3; }

[ $# = 1 ] || die "which commit or tag? usage: scripts/previous.sh COMMIT"
commit=$(git rev-parse --verify --quiet "$1^{commit}") ||
  die "no commit '$1' here: a shallow clone has no history (git fetch --unshallow)"
into=build/previous/$commit
if [ ! -e "$into/.made" ]; then
  printf 'previous: building %s in %s\n' "$1" "$into" >&2
  rm -rf "$into"
  mkdir -p "$into"
  git archive "$commit" | tar -x -C "$into"
  (cd "$into" && "$OLDPWD/.venv/bin/python" setup.py -q build_ext --inplace >build.log 2>&1) ||
    die "$1 cannot be built with this environment: see $into/build.log"
  touch "$into/.made"
fi
printf '%s\n' "$PWD/$into"
