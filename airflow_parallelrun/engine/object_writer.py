# SPDX-License-Identifier: Apache-2.0
"""Writes one object of any size: in parts, some of which the store copies itself."""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.objects import CannotCopyError, objects_at, patiently
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_parallelrun.engine.objects import Objects, Upload

logger = logging.getLogger(__name__)

# S3 takes 10,000 parts and Azure 50,000: so few are left over for those that copies make smaller.
PART_BYTES = 8 << 20
PARTS = 9_000
# What is copied in one go; a store takes about a second for it.
_COPY_BYTES = 1 << 30
# So many parts are on their way at once; each is in memory.
_AT_ONCE = 4
# Of those that S3 can have the last one.
_UNUSED_PART = 10_000


class ObjectWriter(io.RawIOBase):
    """An object that is written from its beginning to its end, and is there when it is complete.

    :param objects: of the store
    :param url: the object's URL, for messages
    :param path: its path, as fsspec's file system has it
    :param metadata: what it carries
    :param total: about how many bytes it will have
    """

    def __init__(
        self, objects: Objects, url: str, path: str, metadata: Mapping[str, str], total: int = 0
    ) -> None:
        self._objects = objects
        self._url = url
        self._path = path
        self._metadata = metadata
        self.part_bytes = max(PART_BYTES, -(-total // PARTS))
        self._buffer = bytearray()
        self._upload: Upload | None = None
        self._threads = ThreadPoolExecutor(_AT_ONCE, "upload")
        self._parts: list[Future[Any]] = []
        self._under_way: deque[Future[Any]] = deque()
        self._size = 0
        self._can_copy: bool | None = None

    def is_of(self, objects: Objects) -> bool:
        """Tell whether the object is made in the same store as others, by the same connection."""
        return self._objects.fs is objects.fs

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def write(self, data: Any) -> int:
        """Write bytes.

        :raises StorageError: when a part cannot be uploaded
        """
        view = memoryview(data).cast("B")
        self._buffer += view
        self._size += len(view)
        while len(self._buffer) >= 2 * self.part_bytes:
            self._send(self.part_bytes)
        if len(self._buffer) >= self.part_bytes:
            self._send(len(self._buffer))
        return len(view)

    @property
    def before_copy(self) -> int:
        """How many bytes have to be written before a part can be copied: none may be too small."""
        waiting = len(self._buffer)
        return max(0, self._objects.least_part - waiting) if waiting else 0

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """Write several pieces; see :meth:`write`."""
        for piece in pieces:
            self.write(piece)

    def can_copy(self, source: str) -> bool:
        """Tell whether the store can copy from an object of it, with these credentials.

        It is found out once, by copying a byte into a part that is not used.
        """
        if self._can_copy is None:
            upload = self._begun()
            try:
                self._patiently(upload.copy, _UNUSED_PART, source, 0, 1)
            except CannotCopyError as error:
                self._can_copy = False
                logger.info("%s: the store does not copy (%s); rows are read and written", self._url, error)
            else:
                self._can_copy = True
        return self._can_copy

    def copy(self, source: str, offset: int, length: int) -> None:
        """Have the store copy bytes of another object of it, behind what was written.

        What is too short for a part is read and written.

        :param source: the path of that object
        :raises StorageError: when that fails
        """
        if length < self._objects.least_part:
            fs = self._objects.fs
            self.write(self._patiently(lambda: fs.cat_file(source, start=offset, end=offset + length)))
            return
        if self._buffer:
            self._send(len(self._buffer))
        upload = self._begun()
        while length:
            # The rest is not too short for a part.
            count = length if length < 2 * _COPY_BYTES else _COPY_BYTES
            number = len(self._parts) + 1
            self._add(self._threads.submit(self._patiently, upload.copy, number, source, offset, count))
            self._size += count
            offset += count
            length -= count

    def finish(self, condition: str | None) -> None:
        """Make the object.

        :param condition: as of ``Objects.write``
        :raises FileExistsError: when the condition is not met
        :raises StorageError: when it cannot be made
        """
        if self._upload is None:
            data = bytes(self._buffer)
            self._patiently(self._objects.write, self._path, data, condition, self._metadata)
            return
        if self._buffer:
            self._send(len(self._buffer))
        parts = [part.result() for part in self._parts]
        self._patiently(self._upload.complete, parts, condition)

    def close_threads(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def abort(self) -> None:
        """Remove what was uploaded; that it cannot be is told, and hides no other error."""
        self.close_threads()
        if self._upload is not None:
            try:
                self._patiently(self._upload.abort)
            except StorageError as error:
                logger.warning("what was uploaded stays until it is written again: %s", error)

    def _begun(self) -> Upload:
        if self._upload is None:
            self._patiently(self._objects.abandon, self._path)
            self._upload = self._patiently(self._objects.begin, self._path, self._metadata)
        return self._upload

    def _send(self, count: int) -> None:
        upload = self._begun()
        data = bytes(memoryview(self._buffer)[:count])
        self._buffer = self._buffer[count:]
        self._add(self._threads.submit(self._patiently, upload.put, len(self._parts) + 1, data))

    def _add(self, part: Future[Any]) -> None:
        """Take a part on; wait while too many are under way."""
        self._parts.append(part)
        self._under_way.append(part)
        while len(self._under_way) > _AT_ONCE:
            self._under_way.popleft().result()

    def _patiently(self, call: Callable[..., Any], *given: Any) -> Any:
        return patiently(self._url, lambda: call(*given))


def upload_file(path: str, url: str) -> None:
    """Upload a file, in the place of an object of that name.

    :raises OSError: when it cannot be read
    :raises StorageError: when it cannot be uploaded
    """
    objects, place = objects_at(url)
    writer = ObjectWriter(objects, url, place.path, {}, os.path.getsize(path))
    try:
        with open(path, "rb") as file:
            while piece := file.read(writer.part_bytes):
                writer.write(piece)
        writer.finish(None)
    except BaseException:
        writer.abort()
        raise
    writer.close_threads()
