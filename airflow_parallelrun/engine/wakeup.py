# SPDX-License-Identifier: Apache-2.0
"""What wakes a node's dispatch thread: a commit, or somebody who wants it to stop."""

from __future__ import annotations

import os


class Wakeup:
    """A pipe that a selector can watch, and a flag. Every method may be called from a signal handler."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stop_requested = False
        self.stop_reason = ""

    def fileno(self) -> int:
        """Return what becomes readable."""
        return self._read

    def request_stop(self, reason: str) -> None:
        """Ask the node to stop.

        :param reason: goes on from "the node …"
        """
        self.stop_reason = self.stop_reason or reason
        self.stop_requested = True
        self.wake()

    def wake(self) -> None:
        """Wake the dispatch thread."""
        if self._write < 0:
            return
        try:
            os.write(self._write, b"w")
        except BlockingIOError:
            return  # the pipe is full of reasons to wake up

    def close(self) -> None:
        """Free the pipe; requests that come later change nothing any more."""
        write, self._write = self._write, -1
        os.close(write)
        os.close(self._read)

    def clear(self) -> None:
        """Go back to sleep; something must have woken it."""
        os.read(self._read, 4096)
