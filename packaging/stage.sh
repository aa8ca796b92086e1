#!/usr/bin/env bash
# Lays out everything that an installation has: stage.sh BINARY ROOT PREFIX. `make install` does so in /, `make deb` in
# a folder of its own. Settings and keys (/etc/s3vol/environment) are made by whoever installs, and never replaced.
set -euo pipefail

BINARY=$1 ROOT=${2%/} PREFIX=$3
SOURCE=$(cd "$(dirname "$0")/.." && pwd)
SHARE="$ROOT$PREFIX/share"
umask 022

# put MODE FILE PLACE
put() { install -D -m "$1" "$2" "$3"; }

put 0755 "$BINARY" "$ROOT$PREFIX/bin/s3vol"
# mount(8) looks for helpers in /sbin only. With PREFIX=/usr that is /usr/sbin, as on every merged system.
case $PREFIX in
/usr)
  mkdir -p "$ROOT/usr/sbin"
  ln -sfn ../bin/s3vol "$ROOT/usr/sbin/mount.fuse.s3vol"
  ;;
*)
  mkdir -p "$ROOT/sbin"
  ln -sfn "$PREFIX/bin/s3vol" "$ROOT/sbin/mount.fuse.s3vol"
  ;;
esac

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
# Of the program that is installed; with a setting of this shell that is wrong it would say so instead.
date=${SOURCE_DATE_EPOCH:-$(git -C "$SOURCE" log -1 --format=%ct 2>/dev/null || stat -c %Y "$SOURCE/Cargo.toml")}
env -i "SOURCE_DATE_EPOCH=$date" "$BINARY" man "$pages"
for page in "$pages"/*; do
  gzip -9n "$page"
  put 0644 "$page.gz" "$SHARE/man/man${page##*.}/${page##*/}.gz"
done
case $PREFIX in
/usr) zsh="$SHARE/zsh/vendor-completions/_s3vol" ;;
*) zsh="$SHARE/zsh/site-functions/_s3vol" ;;
esac
for shell in "bash:$SHARE/bash-completion/completions/s3vol" "zsh:$zsh" \
  "fish:$SHARE/fish/vendor_completions.d/s3vol.fish"; do
  env -i "$BINARY" completions "${shell%%:*}" >"$pages/completions"
  put 0644 "$pages/completions" "${shell#*:}"
done

mkdir -p "$ROOT$PREFIX/lib/systemd/system"
sed "s|/usr/bin/s3vol|$PREFIX/bin/s3vol|" "$SOURCE/packaging/s3vol.service" >"$pages/unit"
put 0644 "$pages/unit" "$ROOT$PREFIX/lib/systemd/system/s3vol.service"
put 0644 "$SOURCE/packaging/environment" "$SHARE/s3vol/environment"

doc="$SHARE/doc/s3vol"
for page in README.md CHANGELOG.md SECURITY.md LICENSE; do put 0644 "$SOURCE/$page" "$doc/$page"; done
for page in "$SOURCE"/docs/*.md "$SOURCE"/docs/*.svg; do put 0644 "$page" "$doc/docs/${page##*/}"; done
(cd "$SOURCE/examples" && find . -type f ! -name '*.rs') | while read -r file; do
  put 0644 "$SOURCE/examples/$file" "$doc/examples/${file#./}"
done
