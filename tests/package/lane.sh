#!/usr/bin/env bash
# `make test-package`: two versions of the package of a debug build, and what run.sh does with them and `make install`.
#   S3VOL_BINARY   a program that exists already
set -euo pipefail
. "$(dirname "$0")/../../plugin/common.sh"

[ "$(id -u)" -eq 0 ] || die "this needs root"
[ -e /dev/fuse ] || die "/dev/fuse is missing; \`modprobe fuse\`"
need make=make man=man-db groff=groff curl=curl mount=mount flock=util-linux
need_cc
if [ -z "${S3VOL_BINARY:-}" ]; then
  # As the other lanes build it, so that nothing is compiled twice: cargo builds the program for a test beside it.
  (cd "$ROOT" && cargo test --locked --no-run --test pages)
  export S3VOL_BINARY="$BUILT/debug/s3vol"
fi
rm -rf "$ROOT/build/packages"
for revision in 1 2; do S3VOL_DEB_FAST=1 S3VOL_DEB_REVISION=$revision "$ROOT/plugin/deb.sh"; done
"$ROOT/tests/package/run.sh" "$ROOT"/build/packages/s3vol_*-1_*.deb "$ROOT"/build/packages/s3vol_*-2_*.deb
