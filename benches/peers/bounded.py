"""Processes that end: each is given a time, and ends with this program."""

import os
import signal
import subprocess
import time

# Settings of tools that would lead them to another store, or keep them from plain http.
FOREIGN = ("AWS_", "S3VOL_", "RCLONE_", "SSL_CERT_")


class Failure(Exception):
    """What a row says in place of a figure."""


class Fatal(Exception):
    """What ends the whole run."""


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def spawn(argv, env, **pipes):
    """A server. It is asked to end when this program does, however that comes about."""
    argv = ["setpriv", "--pdeathsig", "TERM", *map(str, argv)]
    return subprocess.Popen(argv, env=env, text=True, start_new_session=True, **pipes)


def kill(child):
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class Clock:
    """Seconds for a step, and for all of them."""

    def __init__(self, step, run):
        self.step, self.end = step, time.monotonic() + run

    def left(self):
        left = min(self.step, self.end - time.monotonic())
        if left <= 0:
            raise Fatal("no time is left for the run (RUN_SECONDS)")
        return left

    def until(self, condition, what):
        """Asks again and again."""
        left = self.left()
        end = time.monotonic() + left
        while not condition():
            if time.monotonic() > end:
                raise Failure(f"{what}: more than {left:.0f} s")
            time.sleep(0.02)

    def run(self, argv, env=None, free=lambda: None):
        """What a command prints, and its seconds. `free` lets go of it if it hangs in the kernel."""
        left, began = self.left(), time.monotonic()
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = spawn(argv, env or environment(), **pipes)
        try:
            out, err = child.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            raise Failure(f"more than {left:.0f} s") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                free()
                child.wait()
        seconds = time.monotonic() - began
        if child.returncode:
            said = (err or out).strip().splitlines() or [f"exit code {child.returncode}"]
            raise Failure(f"{os.path.basename(str(argv[0]))}: {said[-1]}")
        return out, seconds
