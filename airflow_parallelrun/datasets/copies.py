# SPDX-License-Identifier: Apache-2.0
"""Local copies of what lies in stores: whole files, or as much of a table's files as some rows take.

A copy of a part has the size of its file, and what a process needs at its own place; between is nothing,
which takes no room on a disk. So processes read it as they read the file. Which bytes of a text they need is
found out by the very code that will read them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.worker.conditions import columns_of
from airflow_parallelrun.worker.errors import InputChangedError, LoadError
from airflow_parallelrun.worker.items import END, FIRST, pread
from airflow_parallelrun.worker.records import TextFile, is_stream
from airflow_parallelrun.worker.spool import is_url

from .listing import ListedFile
from .parquet_footer import Footer, footer_of
from .remote_file import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from airflow_parallelrun.worker.items import Item
    from airflow_parallelrun.worker.spool import Copies

# One request asks for no more, so several threads share a large file, and each holds no more in memory. Over
# files of 64 MiB on Azurite a node takes 100 MB with it, 200 with 8 MiB, in which it is a quarter faster.
PIECE_BYTES = 1 << 22
# At the beginning of a text for its header, and behind a part of it for the end of the last line.
_LINE_BYTES = 1 << 12
# Where a line is longer, so much more is asked for, then twice as much.
_MORE_BYTES = 1 << 16
# A gap between two ranges that is not worth a request of its own.
_GAP_BYTES = 1 << 15
# Of so many files headers and footers are kept: mini-batches come file by file.
_KEPT_FILES = 64

Range = tuple[int, int]


class Copy:
    """A copy of a file in a store: its ranges are fetched, by any threads, and then it is finished.

    :param file: the file
    :param key: what it is a copy of; two with the same are the same
    :param is_shared: whether other mini-batches may need the same one
    """

    #: Whether the store has to be asked what it is a copy of, and how large that is.
    needs_look = False

    def __init__(self, file: RemoteFile, key: Hashable, is_shared: bool) -> None:
        self.file = file
        self.key = key
        self.is_shared = is_shared

    def look(self) -> None:
        """Find out what is needed, if the store has to be asked for that.

        :raises InputChangedError: when the file is not what was listed
        :raises LoadError: when it cannot be read
        """

    def ranges(self) -> list[Range]:
        """Return what is to be fetched, once it has been looked for."""
        return list(_pieces([(0, self.file.size if self.file.is_sized else 1 << 62)]))

    @property
    def size(self) -> int:
        """About how many bytes it takes on the disk."""
        return self.file.size + _LINE_BYTES

    def fetch(self, path: str, start: int, end: int) -> None:
        """Fetch one of the ranges.

        :param path: of the copy
        :raises InputChangedError: when the file is not what was listed
        :raises LoadError: when it cannot be read
        :raises OSError: when the copy cannot be written
        """
        _write(path, self.file.read(start, end), start)

    def finish(self, path: str) -> None:
        """Fetch what else is needed when all ranges are there, and make it as the file is.

        The errors are those of :meth:`fetch`.
        """
        self._complete(path)
        self.file.verify(was_read=bool(self.file.size))
        if self.file.is_sized:
            os.truncate(path, self.file.size)
        if self.file.mtime_ns is not None:
            os.utime(path, ns=(self.file.mtime_ns, self.file.mtime_ns))
        os.chmod(path, 0o444)

    def _complete(self, path: str) -> None:
        _write(path, b"", 0)

    def make(self, path: str) -> None:
        """Make it, here and now.

        The errors are those of :meth:`fetch`.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.look()
        for start, end in self.ranges():
            self.fetch(path, start, end)
        self.finish(path)


class TextPart(Copy):
    """What a process reads for some rows of a text: the header as well, and the rest of the last line.

    :param parts: finds where the rows are
    :param item: the part
    :param encoding: of the text
    :param heads: the beginnings of the last files
    """

    def __init__(self, file: RemoteFile, parts: Any, item: Item, encoding: str, heads: _Kept) -> None:
        super().__init__(file, (file.url, item[FIRST], item[END]), is_shared=False)
        self._parts = parts
        self._item = item
        self._encoding = encoding
        self._heads = heads

    def ranges(self) -> list[Range]:
        """See :class:`Copy`."""
        first, end = max(self._item[FIRST] - 1, 0), min(self._item[END] + _LINE_BYTES, self.file.size)
        return list(_pieces([(first, end)]))

    @property
    def size(self) -> int:
        """See :class:`Copy`."""
        return int(self._item[END] - self._item[FIRST]) + 2 * _LINE_BYTES

    def _complete(self, path: str) -> None:
        source = _Recorded(self.file, path, self.ranges())
        if not source.has(0, min(_LINE_BYTES, self.file.size)):
            head = self._heads.get(self.file.url, lambda: self.file.read(0, _LINE_BYTES))
            source.write(head, 0)
        text = TextFile(self.file.url, self._encoding, source)
        try:
            data, _ = self._parts.begin(text)
            source.fetch(*self._parts.bounds(text, data, self._item))
        except LoadError:
            # Of what the file says the process will come to think the same, and say so.
            if source.has_failed:
                raise


class RowGroup(Copy):
    """What a process reads for some rows of a Parquet file: the footer, and columns of a row group.

    :param item: the rows
    :param wanted: the names of the columns
    :param footers: those of the last files
    """

    needs_look = True

    def __init__(self, file: RemoteFile, item: Item, wanted: Sequence[str], footers: _Kept) -> None:
        super().__init__(file, (file.url, item[FIRST], item[END]), is_shared=True)
        self._first = item[FIRST]
        self._wanted = wanted
        self._footers = footers

    def look(self) -> None:
        """Read the footer."""
        footer: Footer = self._footers.get(self.file.url, lambda: footer_of(self.file))
        self._footer = footer
        self._group = bisect_right(footer.starts, self._first) - 1
        self.key = (self.file.url, *self._wanted, self._group)

    def ranges(self) -> list[Range]:
        """See :class:`Copy`."""
        chunks = self._footer.ranges(self._group, self._wanted, self.file.size)
        return list(_pieces(_joined(chunks, _GAP_BYTES)))

    @property
    def size(self) -> int:
        """See :class:`Copy`."""
        return sum(end - start for start, end in self.ranges()) + len(self._footer.data)

    def _complete(self, path: str) -> None:
        _write(path, self._footer.data, self.file.size - len(self._footer.data))


class Copier:
    """Says what has to be copied for items of an input.

    :param document: the source, as the plan has it
    :param pause: as of :class:`RemoteFile`
    """

    def __init__(self, document: Mapping[str, Any], pause: Callable[[float], None] | None = None) -> None:
        self._format = document.get("format")
        self._encoding: str = document.get("encoding", "")
        self._more = () if pause is None else (pause,)
        self._kept = _Kept()
        if self._format == "parquet":
            columns = (name for name, _ in document["columns"])
            self._wanted = tuple(dict.fromkeys([*columns, *columns_of(document.get("condition"))]))
        elif self._format is not None:
            # Here, not at the top: who has files only need not wait for it.
            from airflow_parallelrun.worker.table import file_parts

            self._parts = file_parts(dict(document))

    def copy(self, item: Item) -> Copy:
        """Return the copy that an item takes."""
        file = RemoteFile(listed(item), *self._more)
        if self._format == "parquet":
            return RowGroup(file, item, self._wanted, self._kept)
        if self._format is None or is_stream(file.url, self._encoding):
            return Copy(file, file.url, is_shared=self._format is not None)
        return TextPart(file, self._parts, item, self._encoding, self._kept)

    def make_all(self, items: Iterable[Item], copies: Copies) -> None:
        """Make the copies for a mini-batch, here and now; of those that cannot be had it is said why.

        :raises OSError: when one cannot be written
        """
        for number, item in enumerate(items):
            if not is_url(item[0]):
                continue
            path = copies.path(number, item[0])
            try:
                self.copy(item).make(path)
            except (InputChangedError, LoadError) as error:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                copies.fail(number, error)


def listed(item: Item) -> ListedFile:
    """Return the file that an item of the plan is of."""
    return ListedFile(item[0], item[1], item[2], item[3] if len(item) > 3 else None)


class _Kept:
    """Something of the last files, each read once however many threads ask for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[threading.Lock, list[Any]]] = {}

    def get(self, url: str, read: Callable[[], Any]) -> Any:
        with self._lock:
            lock, found = self._files.pop(url, (threading.Lock(), []))
            self._files[url] = lock, found
            if len(self._files) > _KEPT_FILES:
                del self._files[next(iter(self._files))]
        with lock:
            if not found:
                found.append(read())
            return found[0]


class _Recorded:
    """A file in a store through its copy: what is not there yet is fetched; the source of a TextFile.

    :param path: of the copy
    :param there: what it has
    """

    def __init__(self, file: RemoteFile, path: str, there: Iterable[Range]) -> None:
        self._file = file
        self._path = path
        self._there = _joined(there, 0)
        self._more = _MORE_BYTES
        self.has_failed = False

    def has(self, start: int, end: int) -> bool:
        return not self._missing(start, end)

    def read(self, at: int, length: int) -> bytes:
        end = min(at + length, self._file.size)
        if end <= at:
            return b""
        self.fetch(at, end)
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return pread(fd, end - at, at)
        finally:
            os.close(fd)

    def fetch(self, start: int, end: int) -> None:
        for first, last in self._missing(start, end):
            ahead = min(max(last, first + self._more), self._file.size)
            self._more = min(2 * self._more, PIECE_BYTES)
            for piece in _pieces([(first, ahead)]):
                try:
                    data = self._file.read(*piece)
                except (InputChangedError, LoadError):
                    self.has_failed = True
                    raise
                self.write(data, piece[0])

    def write(self, data: bytes, at: int) -> None:
        _write(self._path, data, at)
        self._there = _joined([*self._there, (at, at + len(data))], 0)

    def _missing(self, start: int, end: int) -> list[Range]:
        missing, at = [], start
        for first, last in self._there:
            if first >= end:
                break
            if first > at:
                missing.append((at, first))
            at = max(at, last)
        if at < end:
            missing.append((at, end))
        return missing


def _pieces(ranges: Iterable[Range]) -> Iterable[Range]:
    """Yield ranges in pieces of which each is worth one request."""
    for start, end in ranges:
        if end - start >= 1 << 62:  # of a size that nobody knows
            yield start, end
            continue
        yield from pairwise([*range(start, end, PIECE_BYTES), end])


def _joined(ranges: Iterable[Range], gap: int) -> list[Range]:
    """Return ranges in order, as one where no more than so many bytes are between them."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _write(path: str, data: bytes, at: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
    finally:
        os.close(fd)
