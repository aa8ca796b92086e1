#!/usr/bin/env bash
# `make bench-peers`: brings what s3vol is compared with, builds s3vol and the store as releases, and measures.
# `peers.py --help` names the settings. ZEROFS=1 builds zerofs, which takes long; one on the PATH is used as it is.
set -euo pipefail
. "$(dirname "$0")/../../plugin/common.sh"
ZEROFS_VERSION=0.19.1

chosen() { case " ${PEERS:-s3fs rclone} " in *[\ ,]"$1"[\ ,]*) true ;; *) false ;; esac; }

[ "$(id -u)" -eq 0 ] || die "mounting and dropping caches need root"
need_cc
need python3=python3 setpriv=util-linux findmnt=util-linux umount=mount fusermount3=fuse3
if chosen s3fs; then need s3fs=s3fs; fi
if chosen rclone; then need rclone=rclone; fi
export PATH="$ROOT/build/peers/bin:$PATH"
if [ -n "${ZEROFS:-}" ] && ! command -v zerofs >/dev/null; then
  say "building zerofs"
  env -u RUSTFLAGS -u CARGO_BUILD_TARGET \
    cargo install "zerofs@$ZEROFS_VERSION" --locked --root "$ROOT/build/peers"
fi
if command -v zerofs >/dev/null; then modprobe 9p 2>/dev/null || true; fi

cd "$ROOT"
if [ -z "${S3VOL:-}" ] || [ -z "${STORE:-}" ]; then
  say "building s3vol and the store"
  cargo build --release --locked --bin s3vol --example demo-s3
  export S3VOL="${S3VOL:-$BUILT/release/s3vol}" STORE="${STORE:-$BUILT/release/examples/demo-s3}"
fi
say "measuring"
exec python3 benches/peers/peers.py
