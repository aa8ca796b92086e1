#!/usr/bin/env bash
# Makes what a release publishes for this machine's architecture, in build/release: release.sh [plugin] [deb]. Both if
# nothing is said: the plugin folder as an archive with setup.sh beside it, and the Debian package; with them a bill of
# materials (SBOM) and SHA256SUMS. The same commit gives the same bytes on the same system, wherever it is built
# (plugin/reproducible.sh); the system decides on compiler, C library and CA certificates.
#   S3VOL_BINARY   a static program that exists already, instead of building
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target} home=${CARGO_HOME:-$HOME/.cargo}
# No path of this machine gets into the programs. What is named last counts first.
rust_maps=() c_maps=()
for map in "$home=/cargo" "$root=/s3vol" "$target=/target"; do
  rust_maps+=("--remap-path-prefix=$map") c_maps+=("-ffile-prefix-map=$map")
done
export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }${rust_maps[*]}"
export CFLAGS="${CFLAGS:+$CFLAGS }${c_maps[*]}"
export CARGO_INCREMENTAL=0 LC_ALL=C TZ=UTC
. "$root/plugin/common.sh"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(commit_time)}
export SOURCE_DATE_EPOCH
umask 022

CYCLONEDX_VERSION=0.5.9
RELEASE="$ROOT/build/release"
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | head -1)
[ $# -gt 0 ] || set -- plugin deb

# What `git archive` wrote has no repository, and is what is committed.
[ -z "$(git -C "$ROOT" status --porcelain 2>/dev/null)" ] ||
  printf 'warning: what is released is not what is committed\n' >&2

# pack FOLDER FILE: the same bytes for the same content.
pack() {
  tar -C "$1" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - . |
    gzip -9n >"$2"
}

rm -rf "$RELEASE"
mkdir -p "$RELEASE"
for part in "$@"; do
  case $part in
  plugin)
    "$ROOT/plugin/rootfs.sh"
    pack "$OUT" "$RELEASE/s3vol-plugin-$VERSION-$(uname -m).tar.gz"
    install -m 0755 "$ROOT/plugin/setup.sh" "$RELEASE/setup.sh"
    ;;
  deb)
    rm -rf "$ROOT/build/packages"
    RUSTFLAGS=$GIVEN_RUSTFLAGS "$ROOT/plugin/deb.sh"
    install -m 0644 "$ROOT"/build/packages/*.deb "$RELEASE/"
    ;;
  *) die "unknown part of a release: $part" ;;
  esac
done

cyclonedx=$(tool cargo-cyclonedx $CYCLONEDX_VERSION)
sbom="s3vol-$VERSION-$(uname -m).cdx"
trap 'rm -f "$ROOT/$sbom.json"' EXIT
(cd "$ROOT" && with_libraries "$cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$TARGET" \
  --override-filename "$sbom")
sed "s|$ROOT|/s3vol|g" "$ROOT/$sbom.json" >"$RELEASE/$sbom.json"

(cd "$RELEASE" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
say "made $RELEASE"
cat "$RELEASE/SHA256SUMS"
