# SPDX-License-Identifier: Apache-2.0
"""When things happened in a process; every script of the benchmark says so, for every peer alike.

A process has a file named by its pid, with four numbers on the monotonic clock, in ns: when the first
``init()`` began and ended, and when the first and the last ``run()`` ended. It is mapped, so that a stamp
costs little; and it stays when the process is killed.
"""

import mmap
import os
import struct
import time

FORMAT = struct.Struct("=4q")

_LAST = struct.Struct("=q")
_page = None


def init_begins() -> None:
    """Call it first in ``init()``."""
    global _page
    if _page is None:
        path = os.path.join(os.environ["BENCHMARK_STAMPS"], str(os.getpid()))
        with open(path, "w+b") as file:
            file.write(FORMAT.pack(time.monotonic_ns(), 0, 0, 0))
            file.flush()
            _page = mmap.mmap(file.fileno(), FORMAT.size)


def init_ends() -> None:
    """Call it last in ``init()``."""
    _LAST.pack_into(_page, 8, time.monotonic_ns())


def run_ends() -> None:
    """Call it last in ``run()``."""
    now = time.monotonic_ns()
    if _page[16:24] == bytes(8):
        _LAST.pack_into(_page, 16, now)
    _LAST.pack_into(_page, 24, now)
