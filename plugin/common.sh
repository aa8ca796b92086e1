# Shared by the scripts of this folder: paths, messages, packages. Sourced, not run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET="$(uname -m)-unknown-linux-gnu"
OUT="$ROOT/build/plugin"
# Where cargo puts what is built for TARGET, one folder a profile.
BUILT="${CARGO_TARGET_DIR:-$ROOT/target}/$TARGET"
# Tools of cargo that a script installed, one folder a version.
TOOLS="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/s3vol-tools"

# The plugin's root file system holds no libraries, so everything is linked statically. Naming the
# target keeps these flags away from build scripts and procedural macros.
STATIC="-C target-feature=+crt-static"
export CARGO_BUILD_TARGET=$TARGET
# Once, also where one of these scripts calls another: other flags are another build of everything.
case " ${RUSTFLAGS-} " in
*" $STATIC "*) GIVEN_RUSTFLAGS=${RUSTFLAGS%"$STATIC"} ;;
*)
  GIVEN_RUSTFLAGS=${RUSTFLAGS-}
  export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$STATIC"
  ;;
esac

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# packages PACKAGE...: installs them (Debian, Ubuntu).
packages() {
  command -v apt-get >/dev/null 2>&1 || die "please install: $*"
  say "installing $*"
  local as=()
  [ "$(id -u)" -eq 0 ] || as=(sudo)
  "${as[@]}" apt-get update -qq
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need COMMAND=PACKAGE...: installs the packages whose command is missing.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] || packages "${missing[@]}"
}

# A compiler that links a static program: gcc alone, without what it recommends, links nothing.
need_cc() {
  local out status=0
  out=$(mktemp)
  printf 'int main(void) { return 0; }\n' | cc -static -x c - -o "$out" 2>/dev/null || status=$?
  rm -f "$out"
  [ "$status" -eq 0 ] || packages gcc libc6-dev
}

# Whether a program runs in a root file system without libraries. Needs readelf.
is_static() { ! readelf -l "$1" 2>/dev/null | grep INTERP >/dev/null; }

# A busybox for images without libraries. Debian's package `busybox` is not one; busybox-static replaces it.
need_static_busybox() {
  local busybox
  need readelf=binutils
  busybox=$(command -v busybox) && is_static "$busybox" || packages busybox-static
}

# need_idle COMMAND=PACKAGE...: the same for packages of servers, of which none is started and no database
# made for this machine.
need_idle() {
  local pair policy=/usr/sbin/policy-rc.d clusters=/etc/postgresql-common/createcluster.d
  local made=() status=0
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null 2>&1 || break; pair=; done
  [ -n "$pair" ] || return 0
  [ "$(id -u)" -eq 0 ] || die "installing ${pair#*=} needs root"
  if [ ! -e "$policy" ]; then
    made+=("$policy")
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  if [ ! -e "$clusters/s3vol-tests.conf" ]; then
    made+=("$clusters/s3vol-tests.conf")
    mkdir -p "$clusters"
    echo 'create_main_cluster = false' >"$clusters/s3vol-tests.conf"
  fi
  # In a shell of its own, because `need` may end it.
  (need "$@") || status=$?
  rm -f "${made[@]}"
  return "$status"
}

# Whether a Docker engine answers on the address that the client would use.
engine_runs() { command -v docker >/dev/null 2>&1 && timeout 20 docker version >/dev/null 2>&1; }

# with_libraries COMMAND...: runs it with the flags that were given: for programs that use this system's libraries.
with_libraries() {
  if [ -n "$GIVEN_RUSTFLAGS" ]; then
    env -u CARGO_BUILD_TARGET RUSTFLAGS="$GIVEN_RUSTFLAGS" "$@"
  else
    env -u CARGO_BUILD_TARGET -u RUSTFLAGS "$@"
  fi
}

# tool NAME VERSION [PREBUILT]: prints where this version of a tool of cargo is, after installing it if it is missing: in
# a folder of its own, so that no other version that somebody uses is replaced. PREBUILT FILE is tried first, and puts
# the program there without building it.
tool() {
  local name=$1 version=$2 prebuilt=${3:-false} there
  there=$(command -v "$name") && "$there" --version 2>/dev/null | grep -qwF "$version" && echo "$there" && return
  there="$TOOLS/$name-$version"
  if [ ! -x "$there/bin/$name" ] && ! "$prebuilt" "$there/bin/$name"; then
    say "installing $name $version, which takes some minutes" >&2
    env -u CARGO_BUILD_TARGET -u RUSTFLAGS -u CARGO_TARGET_DIR \
      cargo install "$name" --version "$version" --locked --root "$there" >&2 || die "$name $version cannot be installed"
  fi
  echo "$there/bin/$name"
}

# The time of the commit, for what is made of it; of a copy without a repository that of its Cargo.toml.
commit_time() { git -C "$ROOT" log -1 --format=%ct 2>/dev/null || stat -c %Y "$ROOT/Cargo.toml"; }
