# SPDX-License-Identifier: Apache-2.0
"""The shared page: what a worker process is doing right now, readable without its help.

One page per process, in a file that outlives it. The worker writes what it runs; the node alone judges
deadlines from it, charges a death to exactly the mini-batch named there, and takes back work that waits
behind a slow mini-batch.

Layout (native 64-bit integers): sequence (odd while a write is under way), phase, ordinal, feed number,
start (CLOCK_MONOTONIC, ns; one clock for all processes of a machine), revoked_below.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from typing import NamedTuple

SIZE = 4096

IDLE, INIT, LOAD, RUN, WRITE, SHUTDOWN = range(6)
PHASES = ("idle", "init", "load", "run", "write", "shutdown")

_SEQUENCE = struct.Struct("=q")
_STATE = struct.Struct("=qqqq")
_REVOKED = struct.Struct("=q")
_REVOKED_AT = _SEQUENCE.size + _STATE.size


class PageState(NamedTuple):
    """What the worker was doing when the page was read."""

    phase: int
    ordinal: int
    feed: int
    start_ns: int


def last_state(content: bytes | mmap.mmap) -> PageState:
    """Return what a page says whose process is dead."""
    return PageState(*_STATE.unpack_from(content, _SEQUENCE.size))


class Page:
    """A worker's page, mapped from a file descriptor; the descriptor is not kept."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        # Releasing a lock is a full memory barrier: without one the processor may let the read of what
        # was revoked overtake the write of the feed number.
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Unmap the page."""
        self._map.close()

    def write(self, phase: int, ordinal: int = -1, feed: int = -1) -> None:
        """Record what starts now. Only one process writes: the node before the start, then the worker."""
        page = self._map
        sequence = _SEQUENCE.unpack_from(page)[0] | 1
        _SEQUENCE.pack_into(page, 0, sequence)
        _STATE.pack_into(page, _SEQUENCE.size, phase, ordinal, feed, time.monotonic_ns())
        _SEQUENCE.pack_into(page, 0, sequence + 1)

    def read(self) -> PageState | None:
        """Return a consistent state, or None when the worker was writing each time we looked."""
        page = self._map
        for _ in range(100):
            before = _SEQUENCE.unpack_from(page)[0]
            state = _STATE.unpack_from(page, _SEQUENCE.size)
            if not before & 1 and before == _SEQUENCE.unpack_from(page)[0]:
                return PageState(*state)
        return None

    def last(self) -> PageState:
        """Return the state of a process that is dead, even if it died while writing."""
        return last_state(self._map)

    def revoke(self, end: int) -> None:
        """Take back every feed number below end that has not begun; for good, they are never used again.

        Written by the node.
        """
        _REVOKED.pack_into(self._map, _REVOKED_AT, end)
        with self._barrier:
            pass

    def revoked(self, feed: int) -> bool:
        """Tell whether the node took this one back. The worker asks after it wrote the feed number."""
        with self._barrier:
            pass
        return bool(feed < _REVOKED.unpack_from(self._map, _REVOKED_AT)[0])
