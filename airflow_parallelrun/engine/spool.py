# SPDX-License-Identifier: Apache-2.0
"""The spool: copies of what lies in stores, no more of them than there is room for."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.transfers import Threads
from airflow_parallelrun.worker.errors import InputChangedError, LoadError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from airflow_parallelrun.datasets.copies import Copy
    from airflow_parallelrun.worker.spool import Copies

logger = logging.getLogger(__name__)

# So many requests are on their way at once; each has at most 4 MiB in memory.
TRANSFERS = 32
_LOOKS = 8
# The disk is not for the spool alone.
_FREE_SHARE = 0.9


@dataclass(eq=False)
class Spooled:
    """A copy in the spool, or on its way there.

    :param key: what tells it from others
    :param path: where it is kept
    :param holders: how many mini-batches hold it
    :param arrived: called without the lock once it is there, or cannot be had, and forgotten then
    :param left: ranges that are still to be fetched
    :param began: when the first of them was asked for, on the monotonic clock; None before
    :param error: why it cannot be had
    """

    key: Hashable
    copy: Copy
    path: str
    size: int
    holders: int = 0
    arrived: list[Callable[[], None]] = field(default_factory=list)
    left: int = 0
    began: float | None = None
    is_begun: bool = False
    is_there: bool = False
    error: Exception | None = None


class Spool:
    """The copies of a node. Whoever calls a method holds the lock.

    :param folder: where they are; made here
    :param limit: bytes that they may take
    :param lock: held by whoever changes anything
    :param has_changed: called with the lock, from a thread, when there is more room
    :param failed: called when the spool itself fails
    :raises OSError: when the folder cannot be made
    """

    def __init__(
        self,
        folder: str,
        limit: int,
        lock: threading.Lock,
        has_changed: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._folder = folder
        self._kept = os.path.join(folder, "kept")
        os.makedirs(self._kept)
        self._limit = min(limit, int(shutil.disk_usage(folder).free * _FREE_SHARE))
        if self._limit < limit:
            logger.warning(
                "spool_bytes is %d, and %s has room for %d: so much is copied ahead",
                limit,
                folder,
                self._limit,
            )
        self._lock = lock
        self._has_changed = has_changed
        self._transfers = Threads("transfer", TRANSFERS, failed)
        # What takes no time has threads of its own: behind transfers it would have to wait for them.
        self.looks = Threads("look", _LOOKS, failed)
        self.quick = Threads("spool", 1, failed)
        #: As of :class:`RemoteFile`, for what these threads do.
        self.pause = self._transfers.pause
        self._copies: dict[Hashable, Spooled] = {}
        # Those that nobody holds and others may need, the one first that has been so for longest.
        self._idle: OrderedDict[Hashable, Spooled] = OrderedDict()
        self._used = self._count = 0

    @property
    def used(self) -> int:
        """Bytes that are taken, or will be by what is on its way."""
        return self._used

    def hold(self, key: Hashable, copy: Copy, error: Exception | None) -> Spooled:
        """Return a copy that is held until it is let go.

        :param key: of what it is a copy, and for whom
        :param error: why it cannot be had, if that is known already
        """
        spooled = self._copies.get(key)
        if spooled is None:
            self._count += 1
            size = copy.size if error is None else 0
            spooled = Spooled(key, copy, f"{self._kept}/{self._count}", size, error=error)
            self._copies[key] = spooled
        spooled.holders += 1
        self._idle.pop(key, None)
        return spooled

    def has_room(self, wanted: Sequence[Spooled]) -> bool:
        """Tell whether there is room for copies; else make room, if that is possible.

        What is larger than the spool has it alone.
        """
        more = sum(each.size for each in wanted if not each.is_begun)
        if self._used + more <= self._limit:
            return True
        too_much = self._used + more - self._limit
        while self._idle and too_much > 0:
            _, idle = self._idle.popitem(last=False)
            too_much -= idle.size
            self._remove(idle)
        return self._used <= sum(each.size for each in wanted if each.is_begun)

    def begin(self, spooled: Spooled) -> int:
        """Begin to fetch a copy; return how many requests that takes."""
        spooled.is_begun = True
        self._used += spooled.size
        ranges = spooled.copy.ranges() if spooled.error is None else []
        spooled.left = len(ranges)
        for start, end in ranges:
            self._transfers.do(self._fetch, spooled, start, end)
        if not ranges:
            self._transfers.do(self._finish, spooled)
        return max(1, len(ranges))

    def let_go(self, spooled: Spooled) -> None:
        """Let a copy go: it is removed, now or when its room is needed, unless somebody else holds it."""
        spooled.holders -= 1
        if spooled.holders:
            return
        if spooled.copy.is_shared and spooled.error is None:
            self._idle[spooled.key] = spooled
        else:
            self._remove(spooled)

    def link(self, copies: Copies, items: Iterable[tuple[int, str, Spooled]]) -> None:
        """Give a mini-batch its copies, or say why there is none; takes no lock.

        :param items: of each its place in the mini-batch, and its URL
        :raises OSError: when the spool cannot be written
        """
        for number, url, spooled in items:
            if spooled.error is not None:
                copies.fail(number, spooled.error)
                continue
            path = copies.path(number, url)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.link(spooled.path, path)

    def remove_links(self, copies: Copies) -> None:
        """Take the copies from a mini-batch."""
        self.quick.do(shutil.rmtree, copies.folder)

    def close(self) -> None:
        """Have the threads end; the folder is removed by whoever made the one that it is in."""
        for threads in (self._transfers, self.looks, self.quick):
            threads.close()

    def _remove(self, spooled: Spooled) -> None:
        del self._copies[spooled.key]
        self.quick.do(self._remove_file, spooled)

    # What threads do, without the lock.

    def _remove_file(self, spooled: Spooled) -> None:
        if os.path.exists(spooled.path):
            os.unlink(spooled.path)
        with self._lock:
            self._used -= spooled.size if spooled.is_begun else 0
            self._has_changed()

    def _fetch(self, spooled: Spooled, start: int, end: int) -> None:
        if spooled.began is None:
            spooled.began = time.monotonic()
        self._try(spooled, lambda: spooled.copy.fetch(spooled.path, start, end))
        with self._lock:
            spooled.left -= 1
            is_last = spooled.left == 0
        if is_last:
            self._finish(spooled)

    def _finish(self, spooled: Spooled) -> None:
        self._try(spooled, lambda: spooled.copy.finish(spooled.path))
        with self._lock:
            spooled.is_there = True
            arrived, spooled.arrived = spooled.arrived, []
        for call in arrived:
            call()

    def _try(self, spooled: Spooled, step: Callable[[], Any]) -> None:
        if spooled.error is not None:
            return
        try:
            step()
        except (InputChangedError, LoadError) as error:
            spooled.error = error
