#!/usr/bin/env python3
"""Compares s3vol with the local disk and with other file systems over the same store: `make bench-peers`.

Settings come from the environment:
  SCALE=1          the sizes of docs/PERFORMANCE.md's table, 1 GiB and 6,400 files (default: 1/8)
  PEERS="..."      of: local s3vol s3fs rclone zerofs (default: all, and zerofs where it can be mounted)
  NAMES="..."      of: write read pages cp tar files mount ls rm rename (default: all)
  LATENCY=20       milliseconds that each request waits in the store
  STEP_SECONDS=300, RUN_SECONDS=7200   the most that a step and all of it may take
  WORK=/var/tmp    where a folder for mounts, caches and the local files is made
  S3VOL=, STORE=   the programs: s3vol, and examples/demo-s3.rs
  ZEROFS_MOUNT=    a program that mounts a 9P socket (SOCKET DIR), where the kernel cannot
  KEEP_CACHES=1    leave the caches of the kernel alone: the local disk is never cold then
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

# A clone stays as it is.
sys.dont_write_bytecode = True

from bounded import Clock, Fatal, kill
from mounts import SYSTEMS, Store, mounted, release
from table import table
from workloads import MIB, NAMES, Data, Run, sizes_at

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def chosen(text, default, known):
    words = text.replace(",", " ").split()
    unknown = [word for word in words if word not in known]
    if unknown:
        raise Fatal(f"unknown: {' '.join(unknown)}; there are: {' '.join(known)}")
    return [name for name in known if name in (words or default)]


def installed(peer, env):
    mounts = env.get("ZEROFS_MOUNT") or "\t9p\n" in Path("/proc/filesystems").read_text()
    return peer != "zerofs" or (shutil.which(peer) and mounts)


class Settings:
    def __init__(self, env):
        self.began = time.monotonic()
        self.peers = chosen(env.get("PEERS", ""), [peer for peer in SYSTEMS if installed(peer, env)], SYSTEMS)
        self.names = chosen(env.get("NAMES", ""), NAMES, NAMES)
        self.clock = Clock(float(env.get("STEP_SECONDS") or 300), float(env.get("RUN_SECONDS") or 7200))
        self.scale, self.latency = Fraction(env.get("SCALE") or "1/8"), int(env.get("LATENCY") or 20)
        self.keeps_caches = bool(env.get("KEEP_CACHES"))
        self.work = Path(env.get("WORK") or "/var/tmp").resolve()
        self.programs = {"s3vol": env.get("S3VOL"), "store": env.get("STORE"), "zerofs_mount": env.get("ZEROFS_MOUNT")}
        self.sizes = sizes_at(self.scale)
        self.home = self.store = self.data = None

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=sys.stderr, flush=True)

    def check(self):
        """What would end the run in the middle of it."""
        if os.geteuid() != 0:
            raise Fatal("mounting and dropping caches need root")
        if not Path("/dev/fuse").exists():
            raise Fatal("/dev/fuse is missing; `modprobe fuse`")
        for setting in ("s3vol", "store"):
            if not shutil.which(self.programs[setting] or ""):
                raise Fatal(f"{setting.upper()} names no program; `make bench-peers` builds it and sets it")
        tools = ["setpriv", "umount", "findmnt", "tar", *(peer for peer in self.peers if peer not in ("local", "s3vol"))]
        missing = [tool for tool in tools if not shutil.which(tool)]
        if missing:
            raise Fatal(f"not installed: {', '.join(missing)}; PEERS=\"...\" leaves peers out")
        # A file beside its copy in a cache; in the store its segments, its object and the parts of that.
        need = (3 * self.sizes.mebibytes + 512) * MIB
        lines = Path("/proc/meminfo").read_text().splitlines()
        memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        for what, free in ((f"{self.work} (or another WORK)", shutil.disk_usage(self.work).free), ("memory", memory)):
            if free < need:
                raise Fatal(f"{need // MIB} MiB are needed in {what}, and {free // MIB} are free; a smaller SCALE needs less")

    def drop_caches(self):
        if not self.keeps_caches:
            self.clock.run(["sh", "-c", "sync && echo 3 >/proc/sys/vm/drop_caches"])

    def heading(self):
        """What the figures depend on."""
        disk = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", self.work], capture_output=True, text=True).stdout.strip()
        return (
            f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors at a load of {os.getloadavg()[0]:.0f}, SCALE={self.scale}, "
            f"{self.latency} ms added to each request, local: {disk}. Seconds, from the beginning of the command."
        )


@contextlib.contextmanager
def workplace(settings):
    """Folder, data and store of this run; nothing of them stays."""
    settings.home = Path(tempfile.mkdtemp(prefix="s3vol-peers-", dir=settings.work))
    try:
        settings.say(f"working in {settings.home}")
        with open(settings.home / "store.log", "wb") as log:
            settings.store = Store(settings.programs["store"], log)
        settings.store.env = settings.store.answer()
        settings.data = Data(settings.home, settings.sizes)
        yield
    finally:
        settings.say("cleaning up")
        if settings.store:
            kill(settings.store.child)
        for place in mounted():
            if place.startswith(f"{settings.home}/"):
                release(place)
        shutil.rmtree(settings.home, ignore_errors=True)


def stop(number, _frame):
    # A second one would leave half of it behind.
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    for number in SIGNALS:
        signal.signal(number, stop)
    settings, rows = Settings(os.environ), []
    settings.check()
    heading = settings.heading()
    try:
        with workplace(settings):
            for peer in settings.peers:
                Run(settings, peer, rows).all(settings.names)
    finally:
        # Of a run that was stopped what there is.
        print(f"\n{heading}\n\n{table(rows)}")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__ if sys.argv[1:] != ["--help"] else print(__doc__))
    try:
        main()
    except Fatal as error:
        sys.exit(f"error: {error}")
