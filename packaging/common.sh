# Sourced by the scripts that build packages and images: progress, quiet commands, what is needed.

started=$(date +%s)

# step TEXT: one line of progress, with the seconds since the start.
step() { printf '%s: [%4d s] %s\n' "$(basename "$0" .sh)" $(($(date +%s) - started)) "$*"; }
die() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }

# quietly LOG COMMAND...: its output is shown only when it fails.
quietly() {
  local log=$1
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    die "failed: $1 (its last lines stand above)"
  fi
}

missing_packages=()
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# need PACKAGE[:PROGRAM]...: install the Debian packages whose program is not here.
need() {
  local one
  for one in "$@"; do has "${one#*:}" || missing_packages+=("${one%%:*}"); done
  install_missing
}
need_file() { [ -e "$1" ] || missing_packages+=("$2"); install_missing; }
need_python() { /usr/bin/python3 -c "import $1" 2>/dev/null || missing_packages+=("$2"); install_missing; }

install_missing() {
  [ ${#missing_packages[@]} -gt 0 ] || return 0
  has apt-get || die "no apt-get here; install by hand: ${missing_packages[*]}"
  [ "$(id -u)" = 0 ] || die "not root; install first: apt-get install ${missing_packages[*]}"
  step "installing Debian packages: ${missing_packages[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing_packages[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: ${missing_packages[*]} (its last lines stand above)"
  fi
  rm -f "$log"
  missing_packages=()
}
