#!/usr/bin/env bash
# The share of lines that simulated schedules reach: coverage.sh SECONDS. Only this crate and its test are built
# anew for it, and counted.
set -euo pipefail

# Cargo calls this in front of rustc for the crates of the workspace, and for no other.
case ${1:-} in
*rustc) exec "$@" -C instrument-coverage --cfg coverage ;;
esac

ROOT=$(cd "$(dirname "$0")/.." && pwd)
cd "$ROOT"
FOLDER="${CARGO_TARGET_DIR:-$ROOT/target}/coverage"
TOOLS="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
[ -x "$TOOLS/llvm-cov" ] || rustup component add llvm-tools
# Whatever of it runs leaves its counts there, and not where it runs.
export LLVM_PROFILE_FILE="$FOLDER/%4m.profraw"
export RUSTC_WORKSPACE_WRAPPER="$ROOT/plugin/coverage.sh"
unset AWS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR

PROGRAM=$(${CARGO:-cargo} test --locked --test simulation --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\/simulation-[^"]*\)".*/\1/p' | tail -1)
rm -rf "$FOLDER"
mkdir -p "$FOLDER"
# Each schedule is a process; what they count is added up as they end.
STATUS=0
S3VOL_SIMULATION_SECONDS=$1 "$PROGRAM" --ignored --nocapture soak_schedules || STATUS=$?
"$TOOLS/llvm-profdata" merge --sparse -o "$FOLDER/all.profdata" "$FOLDER"/*.profraw
"$TOOLS/llvm-cov" report "$PROGRAM" --instr-profile="$FOLDER/all.profdata" --summary-only \
  --ignore-filename-regex='/(tests|registry|rustc|toolchains)/' >"$FOLDER/report"
# Lines are columns 8 to 10: how many, how many not, the share.
awk '$1 ~ /\.rs$/ { name = $1; sub(/\/.*/, "", name); sub(/\.rs$/, "", name); all[name] += $8; not[name] += $9 }
  END { for (name in all) if (all[name]) printf "%-12s %6d lines, %5.1f %% reached\n", name, all[name],
          100 * (all[name] - not[name]) / all[name] }' "$FOLDER/report" | sort
printf 'of every file: %s\n' "$FOLDER/report"
# What was reached counts, also where a schedule failed.
exit $STATUS
