#!/usr/bin/env bash
# Builds the static binary and lays out build/plugin: config.json and a root file system that holds
# that binary, the CA certificates and the directories that dockerd mounts over. Nothing else.
#   S3VOL_BINARY      a static binary that exists already, instead of building one
#   S3VOL_CA_BUNDLE   the CA certificates to take along
set -euo pipefail
. "$(dirname "$0")/common.sh"

need readelf=binutils
[ -n "${S3VOL_BINARY:-}" ] || need_cc
CERTS="${S3VOL_CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}"
[ -s "$CERTS" ] || need update-ca-certificates=ca-certificates
[ -s "$CERTS" ] || die "no CA bundle at $CERTS; set S3VOL_CA_BUNDLE"

# Name service is part of libc.a since glibc 2.34; an older one would load libraries that a
# root file system without anything does not have.
glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
[ "$(printf '%s\n2.34\n' "$glibc" | sort -V | head -1)" = 2.34 ] ||
  die "glibc $glibc is too old for a static binary that resolves names; 2.34 is needed"

if [ -z "${S3VOL_BINARY:-}" ]; then
  say "building the static binary for $TARGET"
  (cd "$ROOT" && cargo build --release --locked --bin s3vol)
  BINARY="$BUILT/release/s3vol"
else
  BINARY=$S3VOL_BINARY
fi
is_static "$BINARY" || die "$BINARY is not static"

rm -rf "$OUT"
mkdir -p "$OUT/rootfs"/{bin,dev,etc/ssl/certs,proc,run/docker/plugins,s3vol,sys,tmp}
chmod 1777 "$OUT/rootfs/tmp"
install -m 0755 "$BINARY" "$OUT/rootfs/bin/s3vol"
strip "$OUT/rootfs/bin/s3vol"
install -m 0644 "$CERTS" "$OUT/rootfs/etc/ssl/certs/ca-certificates.crt"
install -m 0644 "$ROOT/config.json" "$OUT/config.json"
say "laid out $OUT ($(du -sh "$OUT/rootfs" | cut -f1))"
