#!/usr/bin/env bash
# Sets up the managed plugin on this host: setup.sh --url URL [--credentials FILE] [OPTION...]
# Asks nothing, changes only what differs, and says in its last line whether anything was changed: `changed` or
# `unchanged`. Needs bash, curl, and the right to use the Docker engine of this host. It stands alone: no other file of
# the project has to be there.
#
#   --url URL            where volumes live, such as s3://my-bucket/team
#   --credentials FILE   lines NAME=VALUE with keys, such as AWS_ACCESS_KEY_ID=...; readable by its owner only.
#                        Credentials that are set and not in the file are unset.
#   --named NAME=FILE    keys for volumes with the option credentials=NAME (docs/CREDENTIALS.md); readable by their owner
#                        only; may be repeated. They are used within seconds, also for mounted volumes. Needs root.
#   --set NAME=VALUE     another setting, such as S3VOL_COMMIT=2s; may be repeated; an empty value is none
#   --from PLACE         what to install: a folder with config.json and rootfs/, or an archive of one
#                        (the default: what lies beside this script, or what `make plugin-rootfs` made)
#   --image REFERENCE    or: a plugin in a registry
#   --name NAME          of the plugin (s3vol)
#   --remove             remove the plugin. Refuses while that would lose something: volumes in use, changes that are
#                        not in a bucket, volumes of the embedded store. Volumes in a bucket stay there.
#
# Exit codes: 0 everything is as asked; 1 it is not, and the last line says why; 64 wrong usage.
set -euo pipefail

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage() { printf 'error: %s\n' "$*" >&2; exit 64; }

name=s3vol url='' credentials='' from='' image='' remove='' set_given=() named=()
while [ $# -gt 0 ]; do
  case $1 in
  --remove) remove=1; shift; continue ;;
  --help) sed -n '2,/^set -euo/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
  --url | --credentials | --named | --set | --from | --image | --name) [ $# -ge 2 ] || usage "$1 needs a value" ;;
  *) usage "$1 is no option; --help lists them" ;;
  esac
  case $1 in
  --url) url=$2 ;;
  --credentials) credentials=$2 ;;
  --named)
    [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9_-]{0,63}=. ]] || usage "--named $2: write NAME=FILE"
    named+=("$2")
    ;;
  --set) [[ $2 =~ ^[A-Z][A-Z0-9_]*= ]] || usage "--set $2: write NAME=VALUE"; set_given+=("$2") ;;
  --from) from=$2 ;;
  --image) image=$2 ;;
  --name) name=$2 ;;
  esac
  shift 2
done
[ -n "$remove" ] || [ -n "$url" ] || usage "--url is missing: without one volumes would lie inside the plugin"
[ -z "$from" ] || [ -z "$image" ] || usage "--from and --image exclude each other"
[[ $name =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$ ]] || usage "$name is no name for a plugin"

command -v docker >/dev/null || die "docker is not installed"
command -v curl >/dev/null || die "curl is not installed"
case ${DOCKER_HOST:-unix:///var/run/docker.sock} in
unix://*) socket=${DOCKER_HOST:-unix:///var/run/docker.sock} socket=${socket#unix://} ;;
*) die "this sets up the engine of this host, and DOCKER_HOST names another one" ;;
esac
timeout 20 docker version >/dev/null 2>&1 || die "no Docker engine answers at $socket"

installed() { docker plugin inspect "$name" >/dev/null 2>&1; }
is_enabled() { [ "$(docker plugin inspect -f '{{.Enabled}}' "$name")" = true ]; }
# Of an enabled plugin: dockerd lists no others.
volumes() { docker volume ls -q --filter "driver=$name" --filter "driver=$name:latest"; }
enable() { docker plugin enable --timeout 120 "$name" >/dev/null; }

# The containers that use its volumes, running or not: a stopped one counts for nothing.
used() {
  local volume
  volumes | while read -r volume; do docker ps --filter "volume=$volume" --format '{{.Names}} ({{.ID}})'; done | sort -u
}

# Ends it, unless containers use it. Docker counts each volume that it knows as a use, hence -f.
disable() {
  local users
  users=$(used | tr '\n' ' ')
  [ -z "$users" ] || die "$1, and these containers use volumes of the plugin $name: $users; stop them first"
  docker plugin disable -f "$name" >/dev/null
}

finish() { say "$1"; exit 0; }

home_of() {
  printf '%s/plugins/%s' "$(docker info -f '{{.DockerRootDir}}')" "$(docker plugin inspect -f '{{.Id}}' "$name")"
}

# The first file of the embedded store.
has_embedded() { find "$(home_of)/propagated-mount/state/store" ! -type d -print -quit 2>/dev/null || true; }

# What the plugin has on this host and may have nowhere else, a line each. It must be disabled.
only_here() {
  local folder part
  folder=$(home_of)
  # Without rights an empty answer would mean nothing.
  if ! [ -r "$folder/rootfs" ] || { [ -e "$folder/propagated-mount" ] && ! [ -r "$folder/propagated-mount" ]; }; then
    say "$folder cannot be looked at; run this as root"
    return
  fi
  folder="$folder/propagated-mount/state"
  [ -e "$folder" ] || return 0
  [ -z "$(has_embedded)" ] || say "volumes that lie inside the plugin: $folder/store"
  for part in "$folder"/volumes/*; do
    [ -d "$part" ] && [ "${part##*/}" != trash ] || continue
    # A clean end leaves a lock, the log of the process, what the kernel said to it, and empty folders.
    if [ -n "$(find "$part" -mindepth 1 ! -path "$part/lock" ! -path "$part/worker.log" ! -path "$part/fuse-init" \
      ! -path "$part/claiming" ! -path "$part/parting" ! \( -type d ! -name 'recovery-*' \) -print -quit)" ]; then
      say "changes that may not be in the bucket: $part"
    fi
  done
}

if [ -n "$remove" ]; then
  installed || finish unchanged
  was_enabled=
  if is_enabled; then
    was_enabled=1
    disable "the plugin is to be removed"
  fi
  lost=$(only_here)
  if [ -n "$lost" ]; then
    [ -z "$was_enabled" ] || enable || true
    die "removing the plugin $name would delete what is nowhere else. Use each volume once (docker run --rm -v NAME:/data
  ...), or copy it out, and try again:
$lost"
  fi
  docker plugin rm -f "$name" >/dev/null
  finish changed
fi

# The file itself, wherever a link leads.
only_for_owner() {
  local mode
  [ -f "$1" ] || die "$1 is no file"
  mode=$(stat -Lc %a "$1")
  [ $((0$mode & 077)) -eq 0 ] || die "others may read $1, which holds keys (mode $mode); chmod 0600 it"
}
for one in "${named[@]}"; do only_for_owner "${one#*=}"; done

# ---- What is wanted: settings as NAME=VALUE, one an element. Later ones count.
wanted=()
if [ -n "$credentials" ]; then
  only_for_owner "$credentials"
  number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    # Never the line itself: it may be a key.
    [[ $line =~ ^[[:space:]]*([A-Z][A-Z0-9_]*)=(.*)$ ]] || die "$credentials, line $number: not of the form NAME=VALUE"
    variable=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    if [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
    wanted+=("$variable=$value")
  done <"$credentials"
fi
wanted+=("S3VOL_URL=$url" "${set_given[@]}")

# ---- Install it.
changed=
if ! installed; then
  if [ -n "$image" ]; then
    docker plugin install --disable --grant-all-permissions --alias "$name" "$image" >/dev/null
  else
    here=$(cd "$(dirname "$0")" && pwd)
    if [ -z "$from" ]; then
      for place in "$here"/s3vol-plugin-*-"$(uname -m)".tar.gz "$here/../build/plugin"; do
        if [ -e "$place" ]; then from=$place && break; fi
      done
    fi
    [ -n "$from" ] || die "there is nothing to install; give --from or --image"
    if [ -f "$from" ]; then
      unpacked=$(mktemp -d)
      trap 'rm -rf "$unpacked"' EXIT
      tar -C "$unpacked" -xf "$from"
      from=$unpacked
      [ -f "$from/config.json" ] || from=$(dirname "$(find "$unpacked" -maxdepth 2 -name config.json -print -quit)")
    fi
    [ -f "$from/config.json" ] && [ -d "$from/rootfs" ] || die "${from:-the archive} holds no plugin: no config.json and rootfs/"
    docker plugin create "$name" "$from" >/dev/null
  fi
  changed=1
  say "installed the plugin $name"
fi

# ---- Its files. The plugin sees a changed one within seconds.
for one in "${named[@]}"; do
  folder="$(home_of)/propagated-mount/files/credentials" place=${one%%=*}
  [ -d "$(home_of)/propagated-mount" ] || [ -w "$(home_of)" ] ||
    die "$(home_of) cannot be changed; run this as root"
  install -d -m 0700 "$folder"
  if ! cmp -s "${one#*=}" "$folder/$place"; then
    install -m 0600 "${one#*=}" "$folder/.new"
    mv -f "$folder/.new" "$folder/$place"
    changed=1
    say "put the credentials $place in place"
  fi
done

# ---- Set it.
declare -A now=() want=()
while IFS= read -r -d '' setting; do
  now[${setting%%=*}]=${setting#*=}
done < <(docker plugin inspect -f '{{range .Settings.Env}}{{printf "%s\x00" .}}{{end}}' "$name")
for setting in "${wanted[@]}"; do
  [ -n "${now[${setting%%=*}]+is}" ] || die "${setting%%=*} is no setting of the plugin; docs/CONFIGURATION.md lists them"
  want[${setting%%=*}]=${setting#*=}
done
if [ -n "$credentials" ]; then
  for variable in "${!now[@]}"; do
    case $variable in
    AWS_* | AZURE_* | GOOGLE_*) [ -n "${want[$variable]+is}" ] || want[$variable]= ;;
    esac
  done
fi

json() {
  local text=$1
  [[ $text != *[[:cntrl:]]* ]] || die "a value has a control character in it"
  text=${text//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
body='' names=()
for variable in "${!want[@]}"; do
  [ "${want[$variable]}" != "${now[$variable]}" ] || continue
  body+="${body:+,}$(json "$variable=${want[$variable]}")"
  names+=("$variable")
done

if [ ${#names[@]} -gt 0 ]; then
  if [ -z "${now[S3VOL_URL]}" ] && [ -n "$(has_embedded)" ]; then
    die "the plugin $name has volumes that lie inside it, and with S3VOL_URL they would not be shown. Copy them out and
  remove them first ($(has_embedded))"
  fi
  if is_enabled; then
    disable "settings are to be changed (${names[*]})"
  fi
  # By the engine's socket and not by arguments, which every user of this host can read.
  answer=$(printf '[%s]' "$body" | curl -sS --unix-socket "$socket" -w '%{http_code}' \
    -H 'Content-Type: application/json' --data-binary @- "http://docker/plugins/$name/set") ||
    die "the engine does not take the settings"
  [[ $answer == *204 ]] || die "the engine refuses the settings: ${answer%???}"
  changed=1
  say "set ${names[*]}"
fi

# ---- Enable it.
if ! is_enabled; then
  enable || die "the plugin $name does not start; the log of dockerd says why (journalctl -u docker). Run this again with
  other settings, or with --remove"
  changed=1
  say "enabled the plugin $name"
fi
if [ -n "$changed" ]; then finish changed; else finish unchanged; fi
