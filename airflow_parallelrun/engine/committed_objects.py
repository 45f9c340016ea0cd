# SPDX-License-Identifier: Apache-2.0
"""Commits to an object store: of each commit the rows are one object, and the journal lines another."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.engine.journal import Extent, Streak, parse
from airflow_parallelrun.worker.items import pread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_parallelrun.engine.finished import Finished
    from airflow_parallelrun.engine.journal import Line
    from airflow_parallelrun.engine.mirror import Mirror
    from airflow_parallelrun.engine.names import Attempt
    from airflow_parallelrun.engine.object_store import ObjectStore
    from airflow_parallelrun.engine.store import Store

# An object of rows has no more than this but for the last mini-batch in it; and so much is committed at once.
SEGMENT_BYTES = 64 << 20
# A short run shows what it has done, and a long one does not leave thousands of objects an hour.
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 2.0, 30.0
INTERVALS = 20

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2


class ObjectJournal:
    """A node's journal in an object store; see :class:`committer.Journal`.

    The rows of a commit stand in the order of the plan, so that neighbours are read, or copied, together.

    :param store: the run directory
    :param files: where the node's processes have written the rows
    :param attempt: whose journal it is
    :param header: the first line of a journal
    :param outputs: the files that the script writes, if they have to be uploaded
    """

    def __init__(
        self, store: ObjectStore, files: Store, attempt: Attempt, header: bytes, outputs: Mirror | None
    ) -> None:
        self._store = store
        self._files = files
        self._attempt = attempt
        self._header = header
        self._outputs = outputs
        self._own = f"{names.SEGMENTS}/{attempt}-"
        self._segments = self._journals = 0
        self.path = store.path(f"{names.JOURNAL}/{attempt}")

    def interval_s(self, elapsed_s: float) -> float:
        """Return how long results may wait for others."""
        return min(LONGEST_INTERVAL_S, max(SHORTEST_INTERVAL_S, elapsed_s / INTERVALS))

    def commit(self, finished: Sequence[Finished]) -> None:
        """Make rows and lines durable, in this order; what the script has written comes before both.

        :raises StorageError: when that is refused
        """
        if self._outputs is not None:
            self._outputs.upload()
        entries = [parse(line) for each in finished for line in each.data.splitlines()]
        entries.sort(key=_first)
        lines = []
        freed: list[Extent] = []
        for group in _groups(entries):
            moved = self._move(group)
            lines += [_moved(entry, moved) for entry in group]
            freed += moved
        name = f"{names.JOURNAL}/{self._attempt}-{self._journals}.jsonl"
        self._store.put(name, self._header + b"".join([entry.encode() for entry in lines]))
        self._journals += 1
        self._free(freed)

    def close(self) -> None:
        """Do nothing: nothing is open between two commits."""

    def _move(self, entries: Iterable[Line | Streak]) -> dict[Extent, Extent]:
        """Put the rows of some entries into one object, and return where each extent is now."""
        moved: dict[Extent, Extent] = {}
        pieces: list[bytes] = []
        name = f"{self._own}{self._segments}"
        end = 0
        with contextlib.ExitStack() as opened:
            descriptors: dict[str, int] = {}
            for entry in entries:
                for extent in _extents(entry):
                    # Of a mini-batch that an earlier round has bisected some rows are in the store already.
                    if not extent.segment.startswith(self._own) or extent in moved:
                        continue
                    if extent.segment not in descriptors:
                        fd = os.open(self._files.path(extent.segment), os.O_RDONLY | os.O_CLOEXEC)
                        opened.callback(os.close, fd)
                        descriptors[extent.segment] = fd
                    piece = pread(descriptors[extent.segment], extent.length, extent.offset)
                    if len(piece) != extent.length:
                        raise OSError(f"{extent.segment} ends before the rows of a mini-batch do")
                    pieces.append(piece)
                    moved[extent] = extent._replace(segment=name, offset=end)
                    end += len(piece)
        if pieces:
            self._store.put(name, b"".join(pieces))
            self._segments += 1
        return moved

    def _free(self, extents: Iterable[Extent]) -> None:
        """Give the disk back the rows that are in the store; where it cannot, they stay until the end."""
        for segment, offset, length, _ in extents:
            with contextlib.suppress(OSError):
                fd = os.open(self._files.path(segment), os.O_WRONLY | os.O_CLOEXEC)
                try:
                    _punch(fd, offset, length)
                finally:
                    os.close(fd)


def _groups(entries: Iterable[Line | Streak]) -> Iterator[list[Line | Streak]]:
    """Yield entries whose rows make an object."""
    group: list[Line | Streak] = []
    size = 0
    for entry in entries:
        length = sum(extent.length for extent in _extents(entry))
        if group and size + length > SEGMENT_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += length
    if group:
        yield group


def _extents(entry: Line | Streak) -> list[Extent]:
    if isinstance(entry, Streak) or not entry.parts:
        return entry.extents
    return [extent for part in entry.parts for extent in part.extents]


def _moved(entry: Line | Streak, moved: dict[Extent, Extent]) -> Line | Streak:
    if isinstance(entry, Streak):
        if not entry.extents:
            return entry
        extent = moved[entry.extents[0]]
        return entry._replace(segment=extent.segment, offset=extent.offset)
    parts = [
        part._replace(extents=[moved.get(extent, extent) for extent in part.extents]) for part in entry.parts
    ]
    return entry._replace(extents=[moved.get(extent, extent) for extent in entry.extents], parts=parts)


def _first(entry: Line | Streak) -> int:
    return entry.streak if isinstance(entry, Streak) else entry.ordinal


def _punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "cannot punch a hole")
