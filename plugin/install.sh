#!/usr/bin/env bash
# Installs build/plugin into the Docker engine that the client talks to, and enables it.
# An installed one is replaced only while this engine knows no volume of it: removing a plugin takes
# its local state along, and with the embedded store that is the data itself.
#   S3VOL_PLUGIN   name to install under (s3vol)
#   S3VOL_SET      settings as NAME=VALUE, separated by spaces, for `docker plugin set`
set -euo pipefail
. "$(dirname "$0")/common.sh"

NAME=${S3VOL_PLUGIN:-s3vol}
[ -f "$OUT/config.json" ] || die "build/plugin is missing; run \`make plugin-rootfs\` first"
engine_runs || die "no Docker engine answers; start one, or set DOCKER_HOST (\`make demo\` brings its own)"

if docker plugin inspect "$NAME" >/dev/null 2>&1; then
  volumes=$(docker volume ls -q --filter "driver=$NAME" --filter "driver=$NAME:latest" | tr '\n' ' ')
  [ -z "$volumes" ] || die "the plugin $NAME is installed and this engine knows volumes of it: $volumes
  Removing the plugin would remove its local state, and the data of volumes on the embedded store.
  Remove those volumes first (\`docker volume rm\`), or install under another name: S3VOL_PLUGIN=s3vol-next make plugin"
  if [ "$(docker plugin inspect -f '{{.Enabled}}' "$NAME")" = true ]; then
    docker plugin disable "$NAME" >/dev/null || die "the plugin $NAME is in use and stays as it is"
  fi
  say "removing the installed plugin $NAME, which has no volumes"
  docker plugin rm "$NAME" >/dev/null
fi

say "installing the plugin $NAME"
docker plugin create "$NAME" "$OUT" >/dev/null
# shellcheck disable=SC2086 # settings are words
[ -z "${S3VOL_SET:-}" ] || docker plugin set "$NAME" $S3VOL_SET
docker plugin enable --timeout 120 "$NAME" >/dev/null
docker plugin ls
