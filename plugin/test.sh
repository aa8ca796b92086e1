#!/usr/bin/env bash
# Runs lanes of tests one after the other: test.sh SECONDS LANE... All lanes together may run so long; building
# them comes on top. Installs what a lane needs and is missing.
# Tests that belong to another lane than `core` are #[ignore]d and named `LANE_...`.
set -euo pipefail
. "$(dirname "$0")/common.sh"
SECONDS_ALLOWED=$1
shift

cd "$ROOT"
need_cc
need_static_busybox
need git=git python3=python3 ip=iproute2 dockerd=docker.io docker-compose=docker-compose rclone=rclone \
  s3fs=s3fs fusermount3=fuse3 umount=mount npm=npm rsync=rsync setfattr=attr curl=curl
for name in "$@"; do
  case $name in
  apps)
    need stress-ng=stress-ng setfacl=acl setcap=libcap2-bin \
      setpriv=util-linux dpkg-deb=dpkg
    need_idle /usr/lib/postgresql/15/bin/postgres=postgresql-15 /usr/sbin/mariadbd=mariadb-server-core \
      mariadb=mariadb-client-core
    "$ROOT/plugin/databases.sh"
    ;;
  monitoring) need_idle promtool=prometheus ;;
  examples) need_idle podman=podman runc=runc /usr/lib/podman/netavark=netavark \
    /usr/lib/postgresql/15/bin/postgres=postgresql-15 ;;
  soak) "$ROOT/plugin/garage.sh" ;;
  upgrade) need strip=binutils ;;
  core | posix) ;;
  *) die "unknown lane: $name" ;;
  esac
done
python3 -c 'import ensurepip, venv' 2>/dev/null || need "venv of python3=python3-venv"
# Tools in the tests talk plain http to servers of the tests, and some refuse when a CA bundle is set.
unset AWS_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR

build() {
  say "building the tests, and with them the plugin's program"
  cargo test --locked --no-run
  S3VOL_BINARY="$BUILT/debug/s3vol" "$ROOT/plugin/rootfs.sh"
}

# bounded ARGUMENT...: cargo test with these, within what is left of the time. In the background, because
# `timeout` takes its children out of the terminal's process group, where Ctrl-C would not find them.
bounded() {
  local left=$((DEADLINE - SECONDS)) tests status=0
  if [ "$left" -le 0 ]; then
    printf 'error: no time is left of %s s\n' "$SECONDS_ALLOWED" >&2
    return 1
  fi
  S3VOL_TEST_ROOTFS="$OUT" timeout --kill-after 60 "$left" cargo test --locked --no-fail-fast "$@" &
  tests=$!
  trap 'stopped=1; kill "$tests" 2>/dev/null || true' INT TERM
  wait "$tests" || status=$?
  # A signal ends the first wait, not the tests.
  wait "$tests" 2>/dev/null || true
  sweep
  return "$status"
}

# Removes what tests that were killed could not: each test cleans up after itself otherwise.
sweep() {
  local dir namespace pid
  for dir in "${TMPDIR:-/tmp}"/s3vol-dockerd-*; do
    [ -d "$dir" ] || continue
    # Its daemon ends by itself when the test is gone.
    for _ in $(seq 200); do pgrep -f -- "$dir" >/dev/null || break; sleep 0.1; done
    pgrep -f -- "$dir" >/dev/null && continue
    awk -v d="$dir" 'index($5, d "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r |
      while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
    rm -rf --one-file-system "$dir"
  done
  for namespace in /run/netns/s3vol-*; do
    [ -e "$namespace" ] || continue
    pid=${namespace#/run/netns/s3vol-} pid=${pid%-*}
    [ -d "/proc/$pid" ] || ip netns del "${namespace#/run/netns/}" || true
  done
}

lane() {
  local listed
  say "running the lane $1"
  if [ "$1" = core ]; then
    # Most of its tests wait for deadlines, processes and leases, and keep no processor busy meanwhile.
    RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}" bounded
    return
  fi
  listed=$(cargo test --locked --tests -- --list --ignored 2>/dev/null | grep -c "$1_.*: test" || true)
  [ "$listed" -gt 0 ] || die "the lane $1 has no tests"
  bounded --tests -- --ignored "$1_"
}

# The lane `upgrade` needs the program of the version that landed last, which some clones cannot build.
earlier() {
  local status=0
  "$ROOT/plugin/earlier.sh" || status=$?
  case $status in
  0) export S3VOL_TEST_EARLIER="$ROOT/build/earlier/s3vol" ;;
  3) return 1 ;;
  *) die "the program of the last landed version could not be built" ;;
  esac
}

lanes=()
for name in "$@"; do [ "$name" = upgrade ] && ! earlier || lanes+=("$name"); done
[ ${#lanes[@]} -gt 0 ] || exit 0
set -- "${lanes[@]}"
build
stopped='' failed=()
DEADLINE=$((SECONDS + SECONDS_ALLOWED))
for name in "$@"; do
  lane "$name" || failed+=("$name")
  [ -z "$stopped" ] || die "stopped in the lane $name"
done
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
say "passed: $* ($((SECONDS - DEADLINE + SECONDS_ALLOWED)) s)"
