#!/usr/bin/env bash
# Makes build/databases.tar: the root file system of an image with PostgreSQL, MariaDB and SQLite (of Python), from
# Debian's packages. An image of these packages that is there is kept. Packages stay in build/debs.
set -euo pipefail
. "$(dirname "$0")/common.sh"

SUITE=bookworm
PACKAGES=postgresql-15,mariadb-server-core,mariadb-client-core,python3
TAR="$ROOT/build/databases.tar"
ROOTFS="$ROOT/build/databases" DEBS="$ROOT/build/debs"

[ -s "$TAR" ] && [ "$(cat "$TAR.of" 2>/dev/null)" = "$PACKAGES" ] && exit 0
[ "$(id -u)" -eq 0 ] || die "debootstrap needs root"
need debootstrap=debootstrap

# From where this machine takes its own packages.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(LABEL) $(COMPONENT)' 'Created-By: Packages' |
  awk -v suite="$SUITE" '$2 == suite && $3 == "Debian" && $4 == "main" { print $1; exit }')
[ -n "$mirror" ] || die "apt knows no mirror of Debian $SUITE; add one to its sources"
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy=$proxy

say "making an image of $SUITE with $PACKAGES"
trap 'rm -rf --one-file-system "$ROOTFS" "$TAR.part"' EXIT
rm -rf --one-file-system "$ROOTFS"
mkdir -p "$DEBS" "$ROOTFS"/{usr/sbin,etc/postgresql-common/createcluster.d,etc/dpkg/dpkg.cfg.d}
# Installing starts no server and makes no database; and nothing here has to survive a crash.
printf '#!/bin/sh\nexit 101\n' >"$ROOTFS/usr/sbin/policy-rc.d"
chmod +x "$ROOTFS/usr/sbin/policy-rc.d"
echo 'create_main_cluster = false' >"$ROOTFS/etc/postgresql-common/createcluster.d/none.conf"
echo force-unsafe-io >"$ROOTFS/etc/dpkg/dpkg.cfg.d/unsafe-io"
# What the packages' scripts start or mount ends with the namespaces.
unshare --mount --pid --fork --kill-child \
  debootstrap --variant=minbase --cache-dir="$DEBS" --include="$PACKAGES" \
  "$SUITE" "$ROOTFS" "$mirror" >"$ROOT/build/databases.log" 2>&1 ||
  die "debootstrap failed: $(tail -3 "$ROOT/build/databases.log" "$ROOTFS/debootstrap/debootstrap.log" 2>/dev/null)"
tar -C "$ROOTFS" --numeric-owner --one-file-system -cf "$TAR.part" --exclude='./var/cache/apt/*' \
  --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
  --exclude='./usr/share/locale/*' --exclude='./proc/*' --exclude='./sys/*' .
mv "$TAR.part" "$TAR"
echo "$PACKAGES" >"$TAR.of"
say "made $TAR ($(du -h "$TAR" | cut -f1))"
