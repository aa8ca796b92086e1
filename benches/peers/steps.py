#!/usr/bin/env python3
"""What the benchmark does inside a mounted file system, each step in a process of its own.

`steps.py STEP DIR ARGUMENT...` prints the seconds that the step took, without those of starting Python.
"""

import os
import random
import sys
import time
from pathlib import Path

PAGE = 4096
MIB = 1 << 20


def write(home, mebibytes):
    """One file in pieces of 1 MiB, each with its number, and fsync."""
    rest = random.Random(1).randbytes(MIB - 8)
    with open(home / "big", "wb", buffering=0) as file:
        for number in range(mebibytes):
            assert file.write(number.to_bytes(8, "big") + rest) == MIB
        os.fsync(file)


def read(home, mebibytes):
    """The file from its beginning to its end."""
    with open(home / "big", "rb") as file:
        for number in range(mebibytes):
            piece = file.read(MIB)
            assert len(piece) == MIB and piece.startswith(number.to_bytes(8, "big")), f"MiB {number} is another one"
        assert not file.read(1)


def pages(home, mebibytes, count):
    """Pages of the file, anywhere in it."""
    pick = random.Random(2)
    with open(home / "big", "rb", buffering=0) as file:
        for _ in range(count):
            at = pick.randrange(mebibytes * MIB // PAGE) * PAGE
            assert len(os.pread(file.fileno(), PAGE, at)) == PAGE


def files(home, count, size):
    """Every file of the unpacked archive, in the order of names."""
    found = []
    for folder, folders, names in os.walk(home / "src"):
        folders.sort()
        found += [len(Path(folder, name).read_bytes()) for name in sorted(names)]
    assert (len(found), sum(found)) == (count, size), f"{len(found)} files with {sum(found)} bytes"


def make(home, count):
    """A directory of small files, to be renamed."""
    (home / "old").mkdir()
    for number in range(count):
        (home / "old" / f"f{number}").write_bytes(b"x" * 100)


def rename(home):
    os.rename(home / "old", home / "new")


if __name__ == "__main__":
    step, home, *numbers = sys.argv[1:]
    began = time.monotonic()
    {act.__name__: act for act in (write, read, pages, files, make, rename)}[step](Path(home), *map(int, numbers))
    print(time.monotonic() - began)
