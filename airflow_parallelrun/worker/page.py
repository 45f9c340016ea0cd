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

_WORDS = struct.Struct("@5q")
# The words of the page.
_SEQUENCE, _PHASE, _ORDINAL, _FEED, _START_NS, _REVOKED_BELOW = range(6)


class PageState(NamedTuple):
    """What the worker was doing when the page was read."""

    phase: int
    ordinal: int
    feed: int
    start_ns: int


def last_state(content: bytes | mmap.mmap) -> PageState:
    """Return what a page says whose process is dead.

    One that died while it was writing was between two phases: no user code was running.
    """
    sequence, *state = _WORDS.unpack_from(content)
    return PageState(IDLE, -1, -1, 0) if sequence & 1 else PageState(*state)


def image(phase: int, ordinal: int, feed: int) -> bytes:
    """Return the content of a page that says this, as of now."""
    return _WORDS.pack(0, phase, ordinal, feed, time.monotonic_ns()).ljust(SIZE, b"\0")


class Page:
    """A worker's page, mapped from a file descriptor; the descriptor is not kept."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        # Through such a view an integer is stored by one move. struct.pack_into clears the bytes first, and
        # the other process reads the zeroes now and then.
        self._words = memoryview(self._map).cast("q")
        # Releasing a lock is a full memory barrier: without one the processor may let the read of what
        # was revoked overtake the write of the feed number.
        self._barrier = threading.Lock()

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._map.close()

    def write(self, phase: int, ordinal: int = -1, feed: int = -1) -> int:
        """Record what starts now. Only one process writes: the node before the start, then the worker.

        :return: the time of the start, CLOCK_MONOTONIC in ns
        """
        words = self._words
        sequence = words[_SEQUENCE] | 1
        words[_SEQUENCE] = sequence
        words[_PHASE] = phase
        words[_ORDINAL] = ordinal
        words[_FEED] = feed
        words[_START_NS] = now = time.monotonic_ns()
        words[_SEQUENCE] = sequence + 1
        return now

    def enter(self, phase: int) -> int:
        """Record that the same mini-batch is in another phase from now on.

        :return: as :meth:`write`
        """
        words = self._words
        sequence = words[_SEQUENCE]
        words[_SEQUENCE] = sequence + 1
        words[_PHASE] = phase
        words[_START_NS] = now = time.monotonic_ns()
        words[_SEQUENCE] = sequence + 2
        return now

    def read(self) -> PageState | None:
        """Return a consistent state, or None when the worker was writing each time we looked."""
        words = self._words
        for _ in range(100):
            before = words[_SEQUENCE]
            state = PageState(words[_PHASE], words[_ORDINAL], words[_FEED], words[_START_NS])
            if not before & 1 and before == words[_SEQUENCE]:
                return state
        return None

    def last(self) -> PageState:
        """Return the state of a process that is dead, even if it died while writing."""
        return last_state(self._map)

    def revoke(self, end: int) -> None:
        """Take back every feed number below end that has not begun; for good, they are never used again.

        Written by the node.
        """
        self._words[_REVOKED_BELOW] = end
        with self._barrier:
            pass

    def revoked(self, feed: int) -> bool:
        """Tell whether the node took this one back. The worker asks after it wrote the feed number."""
        with self._barrier:
            pass
        return bool(feed < self._words[_REVOKED_BELOW])
