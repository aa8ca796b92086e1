#!/usr/bin/env bash
# Builds the program of the version that landed last, whose commit is in tests/upgrade/landed, as build/earlier/s3vol:
# for the test that puts this version in its place, and it in the place of this one. Exit code 3 if this copy of the
# repository does not have that commit.
# It is built into the same folder as this version's, so that both share what they depend on.
set -euo pipefail
. "$(dirname "$0")/common.sh"

commit=$(cat "$ROOT/tests/upgrade/landed")
if ! git -C "$ROOT" cat-file -e "$commit^{commit}" 2>/dev/null; then
  say "the upgrade from the last landed version is not tested: this clone does not have commit $commit (git fetch --unshallow)"
  exit 3
fi
place="$ROOT/build/earlier"
program="$place/s3vol"
if [ "$(cat "$place/commit" 2>/dev/null)" = "$commit" ] && [ -x "$program" ]; then
  exit 0
fi

source="$place/source"
built=$(cd "$ROOT" && realpath -m "${BUILT%/*}")
away() { git -C "$ROOT" worktree remove --force "$source" 2>/dev/null || rm -rf "$source"; }
rm -rf "$place/commit" "$program"
mkdir -p "$place"
away
trap away EXIT
say "building the program of the last landed version, commit $commit"
git -C "$ROOT" worktree add --quiet --force --detach "$source" "$commit"
# As a part of the tests: `cargo build` would choose other features of what both depend on, and build that again. Without
# debug information: a program of other settings does not take the place of what was built of this version, which has the
# same name and lies at the same place in its workspace.
(cd "$source" && CARGO_TARGET_DIR=$built \
  cargo --config profile.dev.package.s3vol.debug=false test --locked --no-run --test pages)
# Without what only a debugger reads: it is copied, hashed and synced again and again.
strip -o "$program.new" "$BUILT/debug/s3vol"
# Cargo puts the program of this version back under that name, whether or not it has to build it again.
(cd "$ROOT" && cargo test --locked --no-run --test pages)
mv "$program.new" "$program"
echo "$commit" >"$place/commit"
