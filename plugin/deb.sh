#!/usr/bin/env bash
# Makes the Debian package of this machine's architecture in build/packages.
#   S3VOL_BINARY          a program that exists already, instead of building one
#   S3VOL_DEB_REVISION    of the package (1)
#   S3VOL_DEB_FAST        if set: a larger package, in less time
set -euo pipefail
. "$(dirname "$0")/common.sh"

CARGO_DEB_VERSION=3.8.0
STAGE="$ROOT/build/package" PACKAGES="$ROOT/build/packages"

need dpkg-deb=dpkg dpkg-shlibdeps=dpkg-dev strip=binutils gzip=gzip
cargo_deb=$(tool cargo-deb $CARGO_DEB_VERSION)
# With the libraries of the system that it is made on, and for those that have them: a static program would load those
# that name service is made of all the same.
if [ -z "${S3VOL_BINARY:-}" ]; then
  say "building the program for a package"
  (cd "$ROOT" && with_libraries cargo build --release --locked --bin s3vol)
  BINARY="${CARGO_TARGET_DIR:-$ROOT/target}/release/s3vol"
else
  BINARY=$S3VOL_BINARY
fi

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(commit_time)}
export SOURCE_DATE_EPOCH
rm -rf "$STAGE"
"$ROOT/packaging/stage.sh" "$BINARY" "$STAGE" /usr
strip "$STAGE/usr/bin/s3vol"
mkdir -p "$PACKAGES"
(cd "$ROOT" && with_libraries "$cargo_deb" --no-build --no-strip --locked ${S3VOL_DEB_FAST:+--fast} \
  --deb-revision "${S3VOL_DEB_REVISION:-1}" --output "$PACKAGES/")
