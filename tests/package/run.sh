#!/usr/bin/env bash
# The Debian package on a copy of this machine: installed, used, upgraded, removed and purged; then what `make install`
# makes, with the files of examples/systemd. run.sh OLD.deb NEW.deb
# The copy is an overlay over / in namespaces of its own, so this machine stays as it is, and what was started ends with
# the script. Needs root, /dev/fuse, dpkg, man-db, groff, curl, make.
#   S3VOL_BINARY   the program to install
set -euo pipefail

if [ "${1:-}" != --inside ]; then
  old=$(readlink -f "$1") new=$(readlink -f "$2")
  work=$(mktemp -d)
  trap 'rm -rf --one-file-system "$work"' EXIT
  unshare --mount --pid --fork --kill-child --propagation private \
    timeout --kill-after 10 "${PACKAGE_SECONDS:-420}" "$0" --inside "$old" "$new" "$work"
  exit
fi

WORK=$4
SOURCE=$(cd "$(dirname "$0")/../.." && pwd)
mount -t tmpfs tmpfs "$WORK"
mkdir "$WORK"/{up,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$WORK/up,workdir=$WORK/work" "$WORK/root"
ROOT="$WORK/root"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount -t tmpfs tmpfs "$ROOT/run"
cp "$2" "$ROOT/tmp/old.deb"
cp "$3" "$ROOT/tmp/new.deb"
STATE=/var/lib/s3vol CONFIG=/etc/s3vol/environment
# Whatever this machine has of it is not part of the test.
rm -rf "$ROOT$STATE" "$ROOT/etc/s3vol"
# Only our scripts run: what other packages do after each change takes longer than all of this.
printf '#!/bin/sh\n' >"$ROOT/var/lib/dpkg/info/man-db.postinst"
rm -f "$ROOT"/etc/dpkg/dpkg.cfg.d/*
# As if systemd ran, with every order to it written down.
mkdir -p "$ROOT/run/systemd/system"
printf '#!/bin/sh\necho "$*" >>/tmp/systemctl\n' >"$ROOT/usr/local/bin/systemctl"
chmod +x "$ROOT/usr/local/bin/systemctl"

step() { printf '\n== %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
in_root() { chroot "$ROOT" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
# dpkg ARGUMENT...: runs it, and keeps what it said in $SAID.
dpkg() {
  SAID=$(in_root dpkg "$@" 2>&1) || die "dpkg $*: $SAID"
  printf '%s\n' "$SAID"
}
says() { grep -qF -- "$1" <<<"$SAID" || die "not said: $1"; }
ordered() { grep -qE -- "$1" "$ROOT/tmp/systemctl" 2>/dev/null; }
# until_true WHAT COMMAND...: for 100 s, as a process may wait for what a killed one may have sent.
until_true() {
  local what=$1
  shift
  for _ in $(seq 1000); do "$@" && return; sleep 0.1; done
  die "not within 100 s: $what"
}
is() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }
free() { ! in_root mountpoint -q "$1"; }
# The process that serves the volume whose state folder is the only one here.
server() { head -1 "$ROOT$STATE"/volumes/*/lock; }
unlocked() {
  local lock
  for lock in "$ROOT$STATE"/volumes/*/lock; do [ ! -e "$lock" ] || flock -n "$lock" true || return 1; done
}
no_volume() { in_root umount /mnt && until_true "the end of the mount" unlocked; }
volume() { in_root mount -t fuse.s3vol -o "$1" file:///srv/store/data /mnt; }

# unit_is_right NAME: systemd has nothing to say against an installed unit, its program included.
unit_is_right() {
  command -v systemd-analyze >/dev/null || { echo "not checked, for want of systemd: $1"; return; }
  local wrong
  wrong=$(systemd-analyze verify --root="$ROOT" --man=no --recursive-errors=no "$1" 2>&1 | grep -F "$1" || true)
  [ -z "$wrong" ] || die "$wrong"
}

step "install"
dpkg -i /tmp/old.deb
in_root s3vol --version
[ "$(stat -c %a:%U "$ROOT$CONFIG")" = 600:root ] || die "$CONFIG can be read by others"
! ordered 'start|enable' || die "the service was started or enabled"
in_root test -x /sbin/mount.fuse.s3vol || die "mount(8) would not find its helper"
# dpkg is told to leave pages and docs out on some machines.
(cd "$ROOT/tmp" && mkdir files && dpkg-deb -x old.deb files)
for page in "$ROOT"/tmp/files/usr/share/man/man*/*.gz; do
  # Without a terminal, and in the width of one.
  wrong=$(MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -l "$page" 2>&1 >/dev/null)
  [ -z "$wrong" ] || die "${page##*/}: $wrong"
done
[ "$(ls "$ROOT"/tmp/files/usr/share/man/man1 | wc -l)" -ge 12 ] || die "pages of commands are missing"
bash -n "$ROOT/tmp/files/usr/share/bash-completion/completions/s3vol"
# shellcheck disable=SC2016
bash -c '. "$1"; COMP_WORDS=(s3vol mo) COMP_CWORD=1; _s3vol s3vol mo s3vol; [ "${COMPREPLY[*]}" = mount ]' - \
  "$ROOT/tmp/files/usr/share/bash-completion/completions/s3vol" || die "bash does not complete"
for file in README.md docs/INSTALL.md copyright examples/systemd/fstab examples/monitoring/alerts.yml; do
  [ -s "$ROOT/tmp/files/usr/share/doc/s3vol/$file" ] || die "$file is missing"
done
unit_is_right s3vol.service

step "use it: what is written is an object after the end of the mount"
mkdir -p "$ROOT/srv/store" "$ROOT/srv/home" "$ROOT/mnt"
volume commit=1s
echo one >"$ROOT/mnt/file"
no_volume
is "$ROOT/srv/store/data/file" one || die "the file is no plain object: $(ls -R "$ROOT/srv/store")"

step "upgrade while a volume is in use"
echo 'AWS_SECRET_ACCESS_KEY=mine' >>"$ROOT$CONFIG"
before=$(cat "$ROOT$CONFIG")
volume commit=1s
exec 5>"$ROOT/mnt/open"
echo before >&5
dpkg -i /tmp/new.deb
says /mnt
echo after >&5
exec 5>&-
is "$ROOT/mnt/open" $'before\nafter' || die "the file did not survive the upgrade"
is "$ROOT$CONFIG" "$before" || die "the settings were changed"
[ "$(stat -c %a "$ROOT$CONFIG")" = 600 ] || die "$CONFIG can be read by others"
[ "$(find "$ROOT/etc/s3vol" -type f | wc -l)" = 1 ] || die "copies of the keys lie beside them"
! grep -q mine <<<"$SAID" || die "a key was shown"
! ordered 'stop|restart' || die "the service was stopped: $(cat "$ROOT/tmp/systemctl")"

step "remove while a volume is in use"
dpkg -r s3vol
says /mnt
says "$STATE stays"
! ordered 'stop' || die "the service was stopped with a volume in use"
[ ! -e "$ROOT/usr/bin/s3vol" ] || die "the program stays"
echo late >"$ROOT/mnt/late"
is "$ROOT/mnt/late" late || die "the volume does not work any more"
no_volume
is "$ROOT/srv/store/data/late" late || die "what was written last is no plain object"
is "$ROOT$CONFIG" "$before" || die "removing touched the settings"

step "purge while changes are nowhere else: everything stays"
dpkg -i /tmp/new.deb
volume commit=5m
echo precious >"$ROOT/mnt/only-here"
kill -9 "$(server)"
until_true "the end of the server" unlocked
in_root umount -l /mnt
until_true "the mount to go" free /mnt
[ ! -e "$ROOT/srv/store/data/only-here" ] || die "the test proves nothing: the change got to the store"
dpkg --purge s3vol
says KEPT
says "may not be in the bucket"
is "$ROOT$CONFIG" "$before" || die "the keys are gone, without which nothing gets to the bucket"
[ -d "$ROOT$STATE/volumes" ] || die "THE ONLY COPY IS GONE"

step "installed again, it goes on with them"
dpkg -i /tmp/new.deb
volume commit=1s
is "$ROOT/mnt/only-here" precious || die "the change is lost"

step "purge while a volume is in use: everything stays"
dpkg --purge s3vol
says KEPT
is "$ROOT/mnt/only-here" precious || die "the volume does not work any more"
no_volume
is "$ROOT/srv/store/data/only-here" precious || die "the change is no plain object"

step "the plugin as a service runs it, and a purge of what it leaves"
dpkg -i /tmp/new.deb
call() { in_root curl -sS --fail-with-body --unix-socket /run/docker/plugins/s3vol.sock -d "$2" "http://plugin/$1"; }
# Not by in_root: the number would be that of a shell around it.
chroot "$ROOT" env -i PATH=/usr/bin S3VOL_URL=file:///srv/home S3VOL_STATE=$STATE S3VOL_MOUNTS=/run/s3vol \
  s3vol plugin >"$WORK/plugin.log" 2>&1 &
plugin=$!
until_true "the plugin" call Plugin.Activate '{}' >/dev/null 2>&1
call VolumeDriver.Create '{"Name":"web"}'
call VolumeDriver.Mount '{"Name":"web","ID":"c1"}'
echo page >"$ROOT/run/s3vol/web/index.html"
call VolumeDriver.Unmount '{"Name":"web","ID":"c1"}'
kill "$plugin"
wait "$plugin" || die "the plugin failed: $(cat "$WORK/plugin.log")"
is "$ROOT/srv/home/web/index.html" page || die "the file is no plain object: $(cat "$WORK/plugin.log")"
dpkg -r s3vol
ordered 'stop s3vol.service' || die "the service goes on"
dpkg --purge s3vol
[ ! -e "$ROOT$STATE" ] || die "kept for nothing: $SAID $(find "$ROOT$STATE")"
[ ! -e "$ROOT/etc/s3vol" ] || die "settings stay"

step "purge keeps what it does not know to be worthless"
sh="$ROOT/tmp/control"
dpkg-deb -e "$ROOT/tmp/new.deb" "$sh"
# purged WHAT SCRIPT: after this script, run in the state folder.
purged() {
  rm -rf "${ROOT:?}$STATE" "$ROOT/etc/s3vol"
  mkdir -p "$ROOT$STATE/volumes/u" "$ROOT/etc/s3vol"
  : >"$ROOT$CONFIG"
  (cd "$ROOT$STATE" && eval "$2")
  LISTED=$(find "$ROOT$STATE" | sort)
  SAID=$(in_root /bin/sh /tmp/control/postrm purge 2>&1) || die "$1: the script failed: $SAID"
}
kept() {
  purged "$@"
  grep -q KEPT <<<"$SAID" && [ -e "$ROOT$CONFIG" ] && [ "$(find "$ROOT$STATE" | sort)" = "$LISTED" ] ||
    die "not kept: $1: $SAID"
}
kept "an embedded store" 'mkdir -p store/data && echo x >store/data/file'
kept "a log" 'mkdir volumes/u/log && : >volumes/u/log/log'
kept "a log of an earlier boot" 'mkdir -p volumes/u/log/recovery-0'
kept "what was set aside" 'mkdir volumes/u/recovery-0'
kept "a cache without a clean end" 'mkdir -p volumes/u/cache/00 && : >volumes/u/cache/00/1'
kept "a creation that has not ended" 'mkdir drafts && : >drafts/x'
kept "a file of the future" ': >new'
kept "a hidden file" ': >.new'
kept "a file of the future in a volume" ': >volumes/u/new'
kept "a volume that is a link" 'ln -s /srv volumes/link'
kept "a state folder that is a link" 'rm -rf volumes && cd .. && rmdir s3vol && mkdir "$ROOT/srv/elsewhere" && ln -s /srv/elsewhere s3vol'
kept "keys of another state folder" 'echo S3VOL_STATE=/elsewhere >../../../etc/s3vol/environment'
kept "something mounted there" 'mkdir -p stores/m && mount -t tmpfs tmpfs stores/m && : >stores/m/file'
[ -e "$ROOT$STATE/stores/m/file" ] || die "a file on another file system is gone"
umount "$ROOT$STATE/stores/m"
( exec 9>"$ROOT$STATE/volumes/u/lock"; flock 9; mkdir "$WORK/locked"; exec sleep 60 ) &
until_true "the lock" test -d "$WORK/locked"
SAID=$(in_root /bin/sh /tmp/control/postrm purge 2>&1)
says "a process uses it"
kill $!
purged "what a clean end leaves" ': >volumes/u/lock; : >volumes/u/fuse-init; : >volumes/u/worker.log; mkdir volumes/u/log volumes/u/cache volumes/trash
  : >volumes/trash/x; : >mounts.json; mkdir stores run drafts store; : >stores/a.json'
[ ! -e "$ROOT$STATE" ] && [ ! -e "$ROOT$CONFIG" ] || die "kept for nothing: $SAID"

step "make install: the same files as the package"
rm -rf "${ROOT:?}$STATE" "$ROOT/etc/s3vol"
in_root sh -c '! command -v s3vol' >/dev/null || die "a program is there already"
# make_install ROOT PREFIX
make_install() { make -s -C "$SOURCE" install "DESTDIR=$1" "PREFIX=$2" "S3VOL_BINARY=$S3VOL_BINARY"; }
make_install "$WORK/staged" /usr
[ "$(stat -c %a "$WORK/staged$CONFIG")" = 600 ] || die "$CONFIG can be read by others"
listed() { (cd "$1" && find . ! -type d | sort); }
# What dpkg wants beside, and settings, which the package makes when it is installed.
differ=$(diff <(listed "$ROOT/tmp/files" | grep -v -e /copyright$ -e /changelog) <(listed "$WORK/staged" | grep -v /etc/s3vol/)) ||
  die "the package and make install differ: $differ"
make_install "$WORK/elsewhere" /opt/s3vol
for file in bin/s3vol share/man/man1/s3vol.1.gz lib/systemd/system/s3vol.service; do
  [ -s "$WORK/elsewhere/opt/s3vol/$file" ] || die "$file is not below the prefix"
done
grep -q '^ExecStart=/opt/s3vol/bin/s3vol ' "$WORK/elsewhere/opt/s3vol/lib/systemd/system/s3vol.service" ||
  die "the unit starts another program"

step "make install: used, and again over changed settings"
make_install "$ROOT" /usr/local
[ "$(in_root sh -c 'command -v s3vol')" = /usr/local/bin/s3vol ] || die "it is not found"
in_root s3vol --version
in_root man --where s3vol | grep -q ^/usr/local/ || die "its page is not found"
unit_is_right s3vol.service
echo 'AWS_SECRET_ACCESS_KEY=mine' >>"$ROOT$CONFIG"
before=$(cat "$ROOT$CONFIG")
make_install "$ROOT" /usr/local
is "$ROOT$CONFIG" "$before" || die "the settings were changed"
[ "$(stat -c %a "$ROOT$CONFIG")" = 600 ] || die "$CONFIG can be read by others"
volume commit=1s
is "$ROOT/mnt/file" one || die "the volume of the package's program is not read"
echo two >"$ROOT/mnt/file"
no_volume
is "$ROOT/srv/store/data/file" two || die "the file is no plain object"

step "examples/systemd: the lines of fstab, with another bucket"
examples="$ROOT/usr/local/share/doc/s3vol/examples/systemd"
mkdir -p "$ROOT"/mnt/{data,photos,old} "$ROOT/srv/fstab"
# Two hosts read and write one volume in it; here it is one.
sed 's|s3://my-bucket/[a-z]*|file:///srv/fstab/data|' "$examples/fstab" >"$ROOT/etc/fstab"
[ "$(grep -c ' fuse.s3vol ' "$ROOT/etc/fstab")" = 3 ] || die "there are other lines in fstab"
in_root findmnt --verify --tab-file /etc/fstab || die "fstab is wrong"
in_root mount /mnt/data
echo written >"$ROOT/mnt/data/file"
# A volume without a commit cannot be followed yet.
sync "$ROOT/mnt/data/file"
in_root mount -a
! free /mnt/photos || die "/mnt/photos is not mounted"
free /mnt/old || die "/mnt/old is mounted at boot"
until_true "the reader to see it" is "$ROOT/mnt/photos/file" written
! (echo no >"$ROOT/mnt/photos/file") 2>/dev/null || die "the volume that is only read was written"
in_root umount /mnt/photos
in_root umount /mnt/data
until_true "the end of the mounts" unlocked
is "$ROOT/srv/fstab/data/file" written || die "the file is no plain object"
in_root mount /mnt/old
is "$ROOT/mnt/old/file" written || die "the line that is not mounted at boot does not work"
in_root umount /mnt/old
until_true "the end of the mount" unlocked

step "examples/systemd: the unit, with another bucket and the program where it is"
unit="$ROOT/etc/systemd/system/mnt-data.service"
mkdir -p "${unit%/*}"
sed -e 's|s3://my-bucket/data|file:///srv/unit/data|' -e 's|=/usr/bin/s3vol|=/usr/local/bin/s3vol|' \
  "$examples/mnt-data.service" >"$unit"
unit_is_right mnt-data.service
mkdir -p "$ROOT/srv/unit"
of_unit() { sed -n "s/^$1=//p" "$unit"; }
[ "$(of_unit EnvironmentFile)" = "$CONFIG" ] || die "the unit has another file of settings"
read -ra start <<<"$(of_unit ExecStart)"
chroot "$ROOT" env -i "${start[@]}" >"$WORK/unit.log" 2>&1 &
unit_process=$!
mounted() { ! free /mnt/data; }
until_true "the mount of the unit" mounted
echo unit >"$ROOT/mnt/data/file"
kill "$unit_process"
status=0
wait "$unit_process" || status=$?
[ "$status" = 0 ] || [ "$status" = "$(of_unit SuccessExitStatus)" ] || die "it ended with $status: $(cat "$WORK/unit.log")"
free /mnt/data || die "it is still mounted"
is "$ROOT/srv/unit/data/file" unit || die "the file is no plain object: $(cat "$WORK/unit.log")"

step "the package and make install do what they should"
