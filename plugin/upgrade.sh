#!/usr/bin/env bash
# Puts the program in build/plugin in the place of the one that an enabled plugin runs, while containers use its
# volumes (docs/UPGRADING.md). Fails without having changed anything where that cannot be.
#   S3VOL_PLUGIN   name of the plugin (s3vol)
set -euo pipefail
. "$(dirname "$0")/common.sh"

NAME=${S3VOL_PLUGIN:-s3vol}
PROGRAM="$OUT/rootfs/bin/s3vol"
[ -x "$PROGRAM" ] || die "build/plugin is missing; run \`make plugin-rootfs\` first"
engine_runs || die "no Docker engine answers; start one, or set DOCKER_HOST"
id=$(docker plugin inspect -f '{{.Id}}' "$NAME") || die "there is no plugin $NAME"
root=$(docker info -f '{{.DockerRootDir}}')
socket=/run/docker/plugins/$id/s3vol.sock
folder=$root/plugins/$id/propagated-mount
[ -S "$socket" ] || die "the plugin $NAME is not enabled, or its engine runs on another host"
[ -d "$folder" ] || die "the folder of the plugin $NAME is not at $folder; its engine runs on another host"

# Where the plugin sees it, as /s3vol; the plugin takes a copy.
trap 'rm -rf --one-file-system "$folder/upgrade"' EXIT
install -d -m 0700 "$folder/upgrade"
install -m 0755 "$PROGRAM" "$folder/upgrade/s3vol"
say "upgrading the plugin $NAME while it is in use"
"$PROGRAM" upgrade --socket "$socket" --from /s3vol/upgrade/s3vol
