#!/usr/bin/env bash
# Builds the release of this commit twice, in two folders, and compares the bytes: reproducible.sh [plugin] [deb]
# Each time everything is compiled, so this takes long.
set -euo pipefail
. "$(dirname "$0")/common.sh"

SOURCE_DATE_EPOCH=$(git -C "$ROOT" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
WORK=$(mktemp -d)
trap 'rm -rf --one-file-system "$WORK"' EXIT
# Folders whose names differ in length, too.
for folder in "$WORK/one" "$WORK/another/place"; do
  say "building in $folder"
  mkdir -p "$folder"
  git -C "$ROOT" archive HEAD | tar -C "$folder" -xf -
  (cd "$folder" && with_libraries env -u CARGO_TARGET_DIR -u S3VOL_BINARY ./plugin/release.sh "$@")
  rm -rf "$folder/target"
done
diff -r "$WORK/one/build/release" "$WORK/another/place/build/release" ||
  die "two builds of one commit differ; diffoscope shows where"
say "both builds have the same bytes"
