#!/usr/bin/env bash
# Runs one lane of tests: test.sh LANE SECONDS. Installs what the lane needs and is missing.
# Tests that belong to another lane than `test` are #[ignore]d and named `LANE_...`.
set -euo pipefail
. "$(dirname "$0")/common.sh"
LANE=$1 SECONDS_ALLOWED=$2

cd "$ROOT"
need cc=gcc python3=python3 ip=iproute2 busybox=busybox-static dockerd=docker.io \
  docker-compose=docker-compose rclone=rclone s3fs=s3fs fusermount3=fuse3 umount=mount npm=npm
python3 -c 'import ensurepip, venv' 2>/dev/null || need "venv of python3=python3-venv"
# Tools in the tests talk plain http to servers of the tests, and some refuse when a CA bundle is set.
unset AWS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR

case $LANE in
test)
  say "building the tests, and with them the plugin's program"
  cargo test --locked --no-run
  S3VOL_BINARY="$BUILT/debug/s3vol" "$ROOT/plugin/rootfs.sh"
  say "running the tests"
  S3VOL_ROOTFS="$OUT" timeout --kill-after 30 "$SECONDS_ALLOWED" cargo test --locked --no-fail-fast
  ;;
posix | apps | soak)
  listed=$(cargo test --locked --tests -- --list --ignored 2>/dev/null | grep -c "${LANE}_.*: test" || true)
  [ "$listed" -gt 0 ] || die "the lane $LANE has no tests yet"
  timeout --kill-after 30 "$SECONDS_ALLOWED" cargo test --locked --no-fail-fast --tests -- --ignored "${LANE}_"
  ;;
*) die "unknown lane: $LANE" ;;
esac
