#!/usr/bin/env bash
# Installs build/plugin into the Docker engine that the client talks to, and enables it.
# One that is installed and has volumes is upgraded where it is, while containers use them (upgrade.sh); its settings
# and the rest of its root file system stay. It is replaced, with its settings, only while it is enabled and this engine
# knows no volume of it: removing a plugin deletes its local state, and with the embedded store that is the data itself.
#   S3VOL_PLUGIN   name to install under (s3vol)
#   S3VOL_SET      settings as NAME=VALUE, separated by spaces, for `docker plugin set`
set -euo pipefail
. "$(dirname "$0")/common.sh"

NAME=${S3VOL_PLUGIN:-s3vol}
[ -f "$OUT/config.json" ] || die "build/plugin is missing; run \`make plugin-rootfs\` first"
engine_runs || die "no Docker engine answers; start one, or set DOCKER_HOST (\`make demo\` brings its own)"

UPGRADE="docs/INSTALL.md, \"Upgrade\", says how to replace a plugin that has volumes.
  Another name needs no replacing: S3VOL_PLUGIN=s3vol-next make plugin"
settings=()
if docker plugin inspect "$NAME" >/dev/null 2>&1; then
  home=
  while IFS= read -r -d '' setting; do
    case $setting in
    S3VOL_URL=?*) home=${setting#*=} ;;&
    [A-Z]*=?*) settings+=("$setting") ;;
    esac
  done < <(docker plugin inspect -f '{{range .Settings.Env}}{{printf "%s\x00" .}}{{end}}' "$NAME")
  # dockerd lists the volumes of enabled plugins only.
  [ "$(docker plugin inspect -f '{{.Enabled}}' "$NAME")" = true ] ||
    die "the plugin $NAME is installed and disabled, so its volumes cannot be listed.
  Enable it (\`docker plugin enable $NAME\`) and try again. $UPGRADE"
  volumes=$(docker volume ls -q --filter "driver=$NAME" --filter "driver=$NAME:latest" | tr '\n' ' ')
  if [ -n "$volumes" ]; then
    if S3VOL_PLUGIN=$NAME "$ROOT/plugin/upgrade.sh"; then
      docker plugin ls
      exit 0
    fi
    where="Their data lies inside the plugin: \`docker plugin rm\` would DELETE it. Copy it out first."
    [ -z "$home" ] || where="Their data lies in $home unless they were given another place, and stays there."
    die "the plugin $NAME is installed and has volumes: $volumes
  $where
  $UPGRADE"
  fi
  docker plugin disable "$NAME" >/dev/null || die "the plugin $NAME is in use and stays as it is"
  say "replacing the installed plugin $NAME, which has no volumes"
  docker plugin rm "$NAME" >/dev/null
fi

say "installing the plugin $NAME"
docker plugin create "$NAME" "$OUT" >/dev/null
for setting in "${settings[@]}"; do
  docker plugin set "$NAME" "$setting" || printf 'warning: not set again: %s\n' "${setting%%=*}" >&2
done
# shellcheck disable=SC2086 # settings are words
[ -z "${S3VOL_SET:-}" ] || docker plugin set "$NAME" $S3VOL_SET
docker plugin enable --timeout 120 "$NAME" >/dev/null ||
  die "the plugin $NAME does not start; the log of dockerd says why. It is new and holds nothing:
  correct its settings (\`docker plugin set\`) and enable it, or \`docker plugin rm $NAME\`"
docker plugin ls
