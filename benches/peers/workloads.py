"""The workloads, one system at a time."""

import contextlib
import io
import random
import shutil
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

from bounded import Failure
from mounts import SYSTEMS, Local
from table import Row

STEPS = Path(__file__).with_name("steps.py")
MIB = 1 << 20
PAGE = 4096
NAMES = ("write", "read", "pages", "cp", "tar", "files", "mount", "ls", "rm", "rename")


def sizes_at(scale):
    """Of the table in docs/PERFORMANCE.md. A leaf is a directory of 100 files."""
    full = {"mebibytes": 1024, "pages": 2000, "leaves": 64, "unpacked": 3000, "renamed": 2000}
    return SimpleNamespace(**{name: max(1, int(most * scale)) for name, most in full.items()})


class Data:
    """What is copied into the file systems: a tree of small files, and an archive like one of source files."""

    def __init__(self, home, sizes):
        self.tree, self.archive = home / "tree", home / "src.tar"
        pick = random.Random(3)
        for leaf in range(sizes.leaves):
            folder = self.tree / f"d{leaf // 8}" / f"d{leaf % 8}"
            folder.mkdir(parents=True)
            for file in range(100):
                (folder / f"f{file}").write_bytes(pick.randbytes(PAGE))
        # Most are a few KiB, and some are large, as source files are.
        lengths = [min(200_000, int(pick.lognormvariate(8, 1.3))) for _ in range(sizes.unpacked)]
        with tarfile.open(self.archive, "w") as archive:
            for file, length in enumerate(lengths):
                member = tarfile.TarInfo(f"src/p{file // 100}/m{file // 20}/f{file}.rs")
                member.size, member.mtime = length, 1_700_000_000
                archive.addfile(member, io.BytesIO(pick.randbytes(length)))
        # Files and bytes of each.
        self.copied = (100 * sizes.leaves, 100 * sizes.leaves * PAGE)
        self.unpacked = (sizes.unpacked, sum(lengths))

    def warm(self):
        """What is read from the local disk does not count."""
        for path in (self.archive, *self.tree.rglob("f*")):
            path.read_bytes()


def step(name, *arguments):
    return lambda mount: float(mount.run([sys.executable, STEPS, name, mount.dir, *arguments])[0])


def command(*argv):
    return lambda mount: mount.run([str(word).replace("DIR", str(mount.dir)) for word in argv])[1]


class Run:
    """The workloads on one system. What they leave in the bucket is there for the next ones."""

    def __init__(self, settings, system, rows):
        self.settings, self.system, self.rows = settings, SYSTEMS[system], rows
        self.store, self.sizes, self.data = settings.store, settings.sizes, settings.data
        self.made = set()
        big, old = self.sizes.mebibytes, self.sizes.renamed
        # What a workload needs: how it is made, and what the bucket holds then.
        self.seeds = {
            "big": (step("write", big), {"big": (1, big * MIB)}),
            "tree": (command("cp", "-r", self.data.tree, "DIR/tree"), {"tree/": self.data.copied}),
            "src": (command("tar", "-C", "DIR", "-xf", self.data.archive), {"src/": self.data.unpacked}),
            "old": (step("make", old), {"old/": (old, 100 * old)}),
        }

    def all(self, names):
        for name in names:
            before = len(self.rows)
            try:
                getattr(self, name)()
            except Failure as error:
                if not any(row.error for row in self.rows[before:]):
                    self.rows.append(Row(name, self.system.name, error=f"before it: {error}"))
                    self.settings.say(self.rows[-1])
                self.wipe()
        self.wipe()

    def wipe(self):
        """After a failure nobody builds on what is there."""
        self.made.clear()
        self.store.ask("empty")
        shutil.rmtree(self.settings.home / self.system.name, ignore_errors=True)

    @contextlib.contextmanager
    def fresh(self, latency=None):
        """A mount with nothing in any cache, about to be started."""
        mount = self.system(self.store, self.settings.home, self.settings.clock, self.settings.programs)
        try:
            self.settings.drop_caches()
            self.data.warm()
            self.store.ask(f"latency {self.settings.latency if latency is None else latency}")
            yield mount
            mount.stop()
        finally:
            mount.end()

    def need(self, seed):
        """Makes it without delay, unless a workload has."""
        if seed in self.made:
            return
        act, goals = self.seeds[seed]
        with self.fresh(latency=0) as mount:
            mount.start()
            act(mount)
            mount.safe()
            mount.rest(goals)
        self.made.add(seed)

    @contextlib.contextmanager
    def mounted(self, *needs):
        """A fresh mount of a bucket that holds what is needed."""
        for seed in needs:
            self.need(seed)
        with self.fresh() as mount:
            mount.start()
            yield mount

    def measure(self, mount, workload, act, goals=None):
        """One row. With goals it is a change, and is waited for until it is at rest."""
        row = Row(workload, self.system.name)
        self.rows.append(row)
        self.store.ask("requests")
        before = mount.processor()
        try:
            row.command = act(mount)
            began = time.monotonic() - (row.command or 0)
            if goals:
                row.safe = time.monotonic() - began if mount.safe() else None
                row.rest = time.monotonic() - began if mount.rest(goals) else None
                row.safe = row.safe or row.rest
        except Failure as error:
            row.error = str(error)
            raise
        except BaseException:
            row.error = "stopped"
            raise
        finally:
            row.requests = self.store.ask("requests")
            row.processor = None if before is None else mount.processor() - before
            self.settings.say(row)

    def make(self, seed, workload):
        with self.mounted() as mount:
            self.measure(mount, workload, *self.seeds[seed])
        self.made.add(seed)

    def write(self):
        self.make("big", f"write {self.sizes.mebibytes} MiB, fsync")

    def read(self):
        act = step("read", self.sizes.mebibytes)
        with self.mounted("big") as mount:
            self.measure(mount, f"read {self.sizes.mebibytes} MiB, cold", act)
            self.settings.drop_caches()
            self.measure(mount, "read again, from its cache on disk", act)
            self.measure(mount, "read again, from the page cache", act)

    def pages(self):
        act = step("pages", self.sizes.mebibytes, self.sizes.pages)
        with self.mounted("big") as mount:
            self.measure(mount, f"{self.sizes.pages:,} random reads of 4 KiB of it, cold", act)

    def cp(self):
        self.make("tree", f"cp -r of {self.data.copied[0]:,} files of 4 KiB")

    def tar(self):
        self.make("src", f"tar -x of {self.sizes.unpacked:,} files")

    def files(self):
        with self.mounted("src") as mount:
            self.measure(mount, "read those files, cold, in order", step("files", *self.data.unpacked))

    def mount(self):
        if self.system is Local:
            return
        self.need("tree")
        with self.fresh() as mount:
            self.measure(mount, f"mount with {self.data.copied[0]:,} files at rest", type(mount).start)

    def ls(self):
        with self.mounted("tree") as mount:
            self.measure(mount, f"ls -lR of {self.data.copied[0]:,} files, cold", command("ls", "-lR", "DIR/tree"))

    def rm(self):
        with self.mounted("tree") as mount:
            self.measure(mount, "rm -r of them", command("rm", "-r", "DIR/tree"), {"tree/": (0, 0)})
        self.made.discard("tree")

    def rename(self):
        gone = {"old/": (0, 0), "new/": self.seeds["old"][1]["old/"]}
        with self.mounted("old") as mount:
            self.measure(mount, f"rename of a directory of {self.sizes.renamed:,} files at rest", step("rename"), gone)
        self.made.discard("old")
