#!/usr/bin/env bash
# Licences, sources and versions of all crates, as deny.toml says; known vulnerabilities where the list can be had.
set -euo pipefail
. "$(dirname "$0")/common.sh"

CARGO_DENY_VERSION=0.20.2
ADVISORIES=https://github.com/rustsec/advisory-db

cd "$ROOT"
deny=$(tool cargo-deny $CARGO_DENY_VERSION)
with_libraries "$deny" --locked check bans licenses sources
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --exit-code "$ADVISORIES" HEAD >/dev/null 2>&1; then
  with_libraries "$deny" --locked check advisories
else
  printf 'warning: the list of advisories cannot be reached; known vulnerabilities are not looked for\n' >&2
fi
