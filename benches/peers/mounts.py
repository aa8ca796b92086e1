"""The store, and the file systems over it that are compared."""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from bounded import Failure, Fatal, environment, kill, spawn

BUCKET = "bench"
TICKS = os.sysconf("SC_CLK_TCK")


class Store:
    """`examples/demo-s3.rs`; it ends when its input does."""

    def __init__(self, program, log):
        argv = [program, "--port", "0", "--bucket", BUCKET, "--control"]
        self.child = spawn(argv, environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        # What a client needs to know.
        self.env = {}

    def answer(self):
        ready = select.select([self.child.stdout], [], [], 60)[0]
        line = self.child.stdout.readline() if ready else ""
        if not line:
            raise Fatal("the store does not answer")
        return json.loads(line)

    def ask(self, command):
        try:
            print(command, file=self.child.stdin, flush=True)
        except OSError as error:
            raise Fatal(f"the store has ended: {error}") from None
        return self.answer()

    def holds(self, prefix):
        held = self.ask(f"files {prefix}")
        return held["files"], held["bytes"]


def mounted():
    """What is mounted, with its device number."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {fields[4]: fields[2] for fields in lines}


def release(at):
    """Takes a mount away that may hang: whoever waits in the kernel for it goes on first."""
    device = mounted().get(str(at))
    if device:
        abort = Path("/sys/fs/fuse/connections", device.split(":")[1], "abort")
        if abort.exists():
            abort.write_text("1")
        if subprocess.run(["umount", "-f", at], capture_output=True, timeout=30).returncode:
            subprocess.run(["umount", "-l", at], capture_output=True, timeout=30)


def processor(pid):
    """Processor time of a process and of those below it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    return own + sum(processor(child) for some in children for child in some)


def set_aside(state, home):
    """Keeps the files of an earlier mount until the end: for a minute ext4 looks at every inode that was freed before it
    uses one, and what is measured next would make its files the slower for that."""
    if state.exists():
        left = home / "left"
        left.mkdir(parents=True, exist_ok=True)
        state.rename(left / f"{state.parent.name}-{time.monotonic_ns()}")


class Mount:
    """A file system over the bucket. A new one has no cache and no state of its own."""

    name = None
    # Before the keys of its files.
    prefix = ""

    def __init__(self, store, home, clock, programs):
        self.store, self.clock, self.programs = store, clock, programs
        self.dir, self.state, self.log = (home / self.name / place for place in ("mnt", "state", "log"))
        self.children = []
        self.log.unlink(missing_ok=True)
        set_aside(self.state, home)
        self.home = home
        for folder in (self.dir, self.state):
            folder.mkdir(parents=True, exist_ok=True)

    def argv(self):
        """The program that serves the mount in the foreground."""
        raise NotImplementedError

    def env(self):
        return environment(**self.store.env)

    def serve(self, argv):
        with open(self.log, "ab") as log:
            self.children.append(spawn(argv, self.env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def start(self):
        """Returns once the root was listed; the seconds."""
        began = time.monotonic()
        self.serve(self.argv())
        self.attach()
        self.clock.until(lambda: str(self.dir) in self.alive(), "mount")
        self.run(["ls", self.dir])
        return time.monotonic() - began

    def attach(self):
        """What a mount takes besides its program."""

    def alive(self):
        """What is mounted, unless a program has ended."""
        if any(child.poll() is not None for child in self.children):
            said = self.log.read_text(errors="replace").strip().splitlines() or ["ended without a word"]
            errors = [line for line in said if "error" in line.lower()]
            raise Failure(f"{self.name}: {(errors or said)[-1]}")
        return mounted()

    def run(self, argv):
        return self.clock.run(argv, free=lambda: release(self.dir))

    def processor(self):
        return sum(processor(child.pid) for child in self.children)

    def safe(self):
        """Returns once everything is in the bucket; False where it is when it is at rest."""
        return False

    def rest(self, goals):
        """Returns once every file is an object, so many files and bytes below each prefix; False where none ever is."""
        for below, goal in goals.items():
            held = lambda: self.store.holds(self.prefix + below)
            try:
                self.clock.until(lambda: held() == goal, "at rest")
            except Failure as error:
                raise Failure(f"{error}, {held()} below {below}, not {goal}") from None
        return True

    def stop(self):
        """Returns once the programs have ended."""
        self.run(["umount", self.dir])
        for child in self.children:
            self.clock.until(lambda: child.poll() is not None, "unmount")
            if child.returncode:
                raise Failure(f"{self.name} ended with {child.returncode}")

    def end(self):
        """After this nothing of it is left but what is in the bucket, whatever went wrong."""
        release(self.dir)
        for child in self.children:
            kill(child)
        set_aside(self.state, self.home)


class Local(Mount):
    """A folder of the local disk."""

    name = "local"

    def start(self):
        return None

    def processor(self):
        return None

    def safe(self):
        self.run(["sync", "-f", self.dir])
        return True

    def rest(self, _goals):
        return False

    def stop(self):
        pass


class S3vol(Mount):
    name = "s3vol"
    prefix = "v/"
    url = f"s3://{BUCKET}/v"

    def own(self, command, *arguments):
        return [self.programs["s3vol"], command, "--state", self.state, *arguments]

    def argv(self):
        return self.own("mount", self.url, self.dir)

    def uncommitted(self):
        said, _ = self.clock.run(self.own("status", "--json"), self.env())
        return sum(volume["uncommitted_bytes"] for volume in json.loads(said))

    def safe(self):
        self.clock.until(lambda: self.uncommitted() == 0, "safe")
        return True

    def rest(self, goals):
        self.clock.run(self.own("settle", self.url), self.env())
        return super().rest(goals)


class S3fs(Mount):
    """Its files are objects when close returns."""

    name = "s3fs"

    def argv(self):
        options = f"url={self.store.env['AWS_ENDPOINT_URL']},use_path_request_style,use_cache={self.state}"
        return ["s3fs", BUCKET, self.dir, "-f", "-o", options]


class Rclone(Mount):
    """It uploads after close, at once."""

    name = "rclone"

    def argv(self):
        config, url = self.state / "rclone.conf", self.store.env["AWS_ENDPOINT_URL"]
        config.write_text(f"[store]\ntype = s3\nprovider = Other\nenv_auth = true\nforce_path_style = true\nendpoint = {url}\n")
        cache = ["--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--cache-dir", self.state / "cache"]
        return ["rclone", "--config", config, "mount", f"store:{BUCKET}", self.dir, *cache]


class Zerofs(Mount):
    """A server of 9P, which the kernel mounts, or the program that ZEROFS_MOUNT names. Its files are never objects."""

    name = "zerofs"

    def argv(self):
        config, keys = self.state / "zerofs.toml", self.store.env
        # With fewer tables fsync returns while what it was asked for is not in the bucket.
        config.write_text(
            f'[cache]\ndir = "{self.state}/cache"\ndisk_size_gb = 10.0\nmemory_size_gb = 1.0\n'
            f'[storage]\nurl = "s3://{BUCKET}/zerofs"\nencryption_password = "benchmark"\n'
            f'[lsm]\nl0_max_ssts = 1024\n[servers.ninep]\nunix_socket = "{self.state}/9p"\n'
            f'[aws]\naccess_key_id = "{keys["AWS_ACCESS_KEY_ID"]}"\nallow_http = "true"\n'
            f'secret_access_key = "{keys["AWS_SECRET_ACCESS_KEY"]}"\n'
            f'endpoint = "{keys["AWS_ENDPOINT_URL"]}"\nregion = "{keys["AWS_REGION"]}"\n'
        )
        return ["zerofs", "run", "-c", config]

    def attach(self):
        socket = self.state / "9p"
        self.clock.until(lambda: self.alive() and socket.exists(), "mount")
        if self.programs["zerofs_mount"]:
            return self.serve([self.programs["zerofs_mount"], socket, self.dir])
        options = "trans=unix,version=9p2000.L,msize=1048576,cache=mmap,access=user"
        return self.run(["mount", "-t", "9p", "-o", options, socket, self.dir])

    def safe(self):
        # One fsync of anything brings up all.
        self.run(["sync", self.dir])
        return True

    def rest(self, _goals):
        return False

    def stop(self):
        self.run(["umount", self.dir])
        self.children[0].send_signal(signal.SIGTERM)
        self.clock.until(lambda: all(child.poll() is not None for child in self.children), "unmount")


SYSTEMS = {system.name: system for system in (Local, S3vol, S3fs, Rclone, Zerofs)}
