#!/usr/bin/env bash
# `make demo`: from nothing to a volume whose files are plain objects, and back to nothing.
# Uses the running Docker engine, or a private one of its own that leaves with it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

NAME=s3vol-demo
VOLUME=s3vol-demo-data
IMAGE=s3vol-demo-busybox
WORK=$(mktemp -d /tmp/s3vol-demo.XXXXXX)
DOCKERD=
STARTED=$SECONDS

cleanup() {
  local status=$?
  # A second Ctrl-C must not leave half of it behind.
  trap - EXIT
  trap '' INT TERM
  say "cleaning up"
  if engine_runs; then
    docker ps -aq --filter "volume=$VOLUME" | xargs -r docker rm -f >/dev/null 2>&1 || true
    docker volume rm "$VOLUME" >/dev/null 2>&1 || true
    docker plugin disable "$NAME" >/dev/null 2>&1 || true
    docker plugin rm "$NAME" >/dev/null 2>&1 || docker plugin rm -f "$NAME" >/dev/null 2>&1 || true
    docker rmi "$IMAGE" >/dev/null 2>&1 || true
  fi
  if [ -n "$DOCKERD" ]; then
    kill "$DOCKERD" 2>/dev/null || true
    for _ in $(seq 150); do kill -0 "$DOCKERD" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$DOCKERD" 2>/dev/null || true
    wait "$DOCKERD" 2>/dev/null || true
    awk -v d="$WORK" 'index($5, d "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r |
      while read -r mount; do umount -l "$mount" 2>/dev/null || true; done
  fi
  # --one-file-system: never into something that is still mounted.
  rm -rf --one-file-system "$WORK"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

need_static_busybox
if engine_runs; then
  say "using the Docker engine that is running"
else
  need dockerd=docker.io
  # Installing it may have started one.
  if engine_runs; then
    say "using the Docker engine that the package started"
  else
    [ "$(id -u)" -eq 0 ] || die "no Docker engine runs, and starting a private one needs root"
    [ -e /dev/fuse ] || die "/dev/fuse is missing; \`modprobe fuse\`"
    say "starting a private Docker engine in $WORK"
    # In a session of its own, so that Ctrl-C reaches this script and not the engine.
    setsid dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" -H "unix://$WORK/docker.sock" \
      --pidfile "$WORK/docker.pid" --iptables=false --bridge=none >"$WORK/dockerd.log" 2>&1 &
    DOCKERD=$!
    export DOCKER_HOST="unix://$WORK/docker.sock"
    for _ in $(seq 300); do
      engine_runs && break
      kill -0 "$DOCKERD" 2>/dev/null || { tail -20 "$WORK/dockerd.log"; die "dockerd did not start"; }
      sleep 0.1
    done
    engine_runs || { tail -20 "$WORK/dockerd.log"; die "dockerd does not answer"; }
  fi
fi

run() { docker run --rm --network none -v "$VOLUME:/data" "$IMAGE" /bin/sh -c "$1"; }

say "making a container image from busybox"
mkdir -p "$WORK/image/bin"
cp "$(command -v busybox)" "$WORK/image/bin/busybox"
for applet in sh cat ls mkdir ln chmod echo find stat; do ln -s busybox "$WORK/image/bin/$applet"; done
tar -C "$WORK/image" -c . | docker import - "$IMAGE" >/dev/null

S3VOL_PLUGIN=$NAME "$ROOT/plugin/install.sh"

say "docker volume create -d $NAME $VOLUME   (no settings: the embedded store on this host)"
docker volume create -d "$NAME" "$VOLUME"

say "a container writes files"
run 'echo "hello from a container" >/data/hello.txt; mkdir -p /data/photos/2024
     echo racoon >/data/photos/2024/racoon.jpg; chmod 640 /data/photos/2024/racoon.jpg
     ln -s hello.txt /data/link; ls -lR /data'

say "the same files, as plain objects in the store"
ID=$(docker plugin inspect -f '{{.Id}}' "$NAME")
ROOTDIR=$(docker info -f '{{.DockerRootDir}}')
STATE="$ROOTDIR/plugins/$ID/propagated-mount/state"
objects() { find "$STATE" -path "*/$VOLUME/*" -type f -not -path '*/.s3vol*' 2>/dev/null; }
for _ in $(seq 300); do objects | grep -q racoon.jpg && break; sleep 0.1; done
objects | grep -q racoon.jpg || die "the objects did not appear below $STATE"
objects | while read -r file; do printf '%s: %s\n' "${file#"$STATE"/}" "$(head -c 60 "$file")"; done

say "a second container reads them back"
run 'cat /data/hello.txt /data/photos/2024/racoon.jpg; stat -c "%a %n" /data/photos/2024/racoon.jpg'
[ "$(run 'cat /data/hello.txt')" = "hello from a container" ] || die "the file came back changed"

say "docker volume inspect $VOLUME"
docker volume inspect "$VOLUME"
say "done in $((SECONDS - STARTED)) s"
