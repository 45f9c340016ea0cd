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
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_parallelrun.engine.finished import Finished

logger = logging.getLogger(__name__)

# A commit costs two disk flushes, some milliseconds; once a second that is lost in the noise.
INTERVAL_S = 1.0
# So many mini-batches make a commit worth its flushes at once; and with twice as many no more work is handed
# out, so that a store that is slow costs time and not memory. A failed one's line is up to 3 kB.
BACKLOG = 10_000
WRITE_TRIES = 6
BACKOFF_S = 1.0


class Committer:
    """Commits lines to one journal.

    :param journal_fd: the journal, its header written
    :param journal_path: for messages
    :param sync: makes a segment durable
    :param wake: called after each commit, from the committer's thread
    """

    def __init__(
        self,
        journal_fd: int,
        journal_path: str,
        sync: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._fd = journal_fd
        self._path = journal_path
        self._end = os.fstat(journal_fd).st_size
        self._sync = sync
        self._wake = wake
        self._pending: list[Finished] = []
        self._mini_batches_pending = 0
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
            self._hurry |= hurry or self._mini_batches_pending > BACKLOG
            self._changed.notify_all()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to become durable that nothing should be added."""
        return self._mini_batches_pending > 2 * BACKLOG

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
        last = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                self._changed.wait_for(
                    lambda: self._hurry or self._closed,
                    timeout=max(0.0, last + INTERVAL_S - time.monotonic()),
                )
                if self._closed:
                    return
                finished, self._pending, self._mini_batches_pending = self._pending, [], 0
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
        data = b"".join([each.data for each in finished])
        segments = {segment for each in finished for segment in each.segments}
        for attempt in range(WRITE_TRIES):
            try:
                for segment in segments:
                    self._sync(segment)
                self._write(data)
            except OSError as error:
                if attempt == WRITE_TRIES - 1:
                    raise
                logger.warning("cannot commit to %s, will try again: %s", self._path, error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed, timeout=BACKOFF_S * 2**attempt):
                        raise
            else:
                break
        self._end += len(data)
        self.committed.extend(finished)

    def _write(self, data: bytes) -> None:
        # Always at the same place: a half-written line of a try that failed is written over.
        view, at = memoryview(data), self._end
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        os.fdatasync(self._fd)
