#!/usr/bin/env bash
# Makes build/garage/bin/garage, a store that must be refused, from its crate. One that is there is kept.
set -euo pipefail
. "$(dirname "$0")/common.sh"

VERSION=2.5.0
TO="$ROOT/build/garage"

[ -x "$TO/bin/garage" ] && exit 0
need_cc
say "building Garage $VERSION, which takes many minutes"
trap 'rm -rf --one-file-system "$TO/target"' EXIT
# As fast to build as it gets: nothing is measured with it.
env -u CARGO_BUILD_TARGET -u RUSTFLAGS CARGO_TARGET_DIR="$TO/target" CARGO_PROFILE_DEV_DEBUG=0 \
  cargo install garage --version "$VERSION" --locked \
    --debug --no-default-features --features bundled-libs,sqlite --root "$TO"
