# SPDX-License-Identifier: Apache-2.0
"""The committer: a node's one thread that makes rows and journal lines durable, in that order.

The dispatch thread hands over finished mini-batches and does not wait. They are reported back as
committed once their segment and their journal line would survive a power cut.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_parallelrun.engine.finished import Finished

logger = logging.getLogger(__name__)

# A commit costs two disk flushes, some milliseconds; once a second that is lost in the noise.
INTERVAL_S = 1.0
# So many mini-batches make a commit worth its flushes at once; and with twice as many no more work is handed
# out, so that a store that is slow costs time and not memory. A failed one's line is up to 3 kB.
BACKLOG = 10_000
# The same for the rows: in an object store those of a commit are one object.
BACKLOG_BYTES = 64 << 20
WRITE_TRIES = 6
BACKOFF_S = 1.0


class Journal(Protocol):
    """Where a committer commits to."""

    #: For messages.
    path: str

    def interval_s(self, elapsed_s: float) -> float:
        """Return how long results may wait for others, so long after the start."""

    def commit(self, finished: Sequence[Finished]) -> None:
        """Make rows durable, and then their lines; nothing of it counts when it raises.

        :raises OSError: when that is refused, and may be tried again
        :raises StorageError: when it was tried often enough
        """

    def close(self) -> None:
        """Close what is open."""


class FileJournal:
    """A journal on a file system.

    :param fd: the journal, its header written
    :param path: for messages
    :param sync: makes a segment durable
    """

    def __init__(self, fd: int, path: str, sync: Callable[[str], None]) -> None:
        self.path = path
        self._fd = fd
        self._end = os.fstat(fd).st_size
        self._sync = sync

    def interval_s(self, elapsed_s: float) -> float:
        """See :class:`Journal`."""
        return INTERVAL_S

    def commit(self, finished: Sequence[Finished]) -> None:
        """See :class:`Journal`."""
        data = b"".join([each.data for each in finished])
        for segment in {segment for each in finished for segment in each.segments}:
            self._sync(segment)
        # Always at the same place: a half-written line of a try that failed is written over.
        view, at = memoryview(data), self._end
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        os.fdatasync(self._fd)
        self._end += len(data)

    def close(self) -> None:
        """See :class:`Journal`."""
        os.close(self._fd)


class Committer:
    """Commits lines to one journal.

    :param journal: the journal
    :param wake: called after each commit, from the committer's thread
    """

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        self._journal = journal
        self._path = journal.path
        self._wake = wake
        self._pending: list[Finished] = []
        self._mini_batches_pending = self._row_bytes_pending = 0
        self._changed = threading.Condition()
        self._hurry = False
        self._closed = False
        self._busy = False
        self._failure: StorageError | None = None
        self.committed: deque[Finished] = deque()
        self._thread = threading.Thread(target=self._loop, name="committer", daemon=True)
        self._thread.start()

    def add(self, finished: Iterable[Finished], hurry: bool = False) -> None:
        """Hand over finished mini-batches.

        :param hurry: commit now, not within the interval
        """
        with self._changed:
            for each in finished:
                self._pending.append(each)
                self._mini_batches_pending += each.tally.done
                self._row_bytes_pending += each.row_bytes
            much = self._mini_batches_pending > BACKLOG or self._row_bytes_pending > BACKLOG_BYTES
            self._hurry |= hurry or much
            self._changed.notify_all()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to become durable that nothing should be added."""
        return self._mini_batches_pending > 2 * BACKLOG or self._row_bytes_pending > 2 * BACKLOG_BYTES

    def flush(self, limit_s: float | None = None) -> None:
        """Return when everything that was handed over is durable.

        :param limit_s: how long to wait at most; default as long as it takes
        :raises StorageError: when it cannot be made so, or not in time
        """
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._failure or not (self._pending or self._busy), timeout=limit_s
            )
            self._hurry = False
        self.check()
        if not done:
            raise StorageError(self._path, f"is not durable after {limit_s} s")

    def check(self) -> None:
        """Raise what stopped the thread, if something did.

        :raises StorageError: when the journal or a segment could not be written
        """
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """End the thread; what is not flushed is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        started = last = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                due = last + self._journal.interval_s(last - started)
                self._changed.wait_for(
                    lambda: self._hurry or self._closed, timeout=max(0.0, due - time.monotonic())
                )
                if self._closed:
                    return
                finished, self._pending = self._pending, []
                self._mini_batches_pending = self._row_bytes_pending = 0
                self._busy, self._hurry = True, False
            try:
                self._commit(finished)
            except Exception as error:  # noqa: BLE001 - whatever ends this thread must reach who waits for it
                self._failure = StorageError(self._path, str(error))
            last = time.monotonic()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            self._wake()
            if self._failure:
                return

    def _commit(self, finished: list[Finished]) -> None:
        for attempt in range(WRITE_TRIES):
            try:
                self._journal.commit(finished)
            except OSError as error:
                if attempt == WRITE_TRIES - 1:
                    raise
                logger.warning("cannot commit to %s, will try again: %s", self._path, error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed, timeout=BACKOFF_S * 2**attempt):
                        raise
            else:
                break
        self.committed.extend(finished)
