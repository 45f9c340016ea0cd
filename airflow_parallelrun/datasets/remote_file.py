# SPDX-License-Identifier: Apache-2.0
"""Reads files in stores: what comes is of the file that was listed, or it is an error.

Azure and S3 read under the condition that the tag of the content is still the same, which costs nothing. To
ask other stores for the tag takes a request of its own, as long as that for a small file; so it is done once,
when everything has been read.
"""

from __future__ import annotations

import io
import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.driver_errors import insist, status_of, told
from airflow_parallelrun.filesystems import locate
from airflow_parallelrun.store_files import read_range
from airflow_parallelrun.worker.errors import InputChangedError, LoadError

from .remote import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .listing import ListedFile

logger = logging.getLogger(__name__)

# What is read ahead grows so far while a file is read on.
_LEAST_BLOCK_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23

_PRECONDITION_FAILED = 412


class RemoteFile:
    """A file in a store, as it was listed. Any thread may use it.

    Where the URL leads to is found out when it is read: that takes longer than all else here.

    :param file: the file
    :param pause: waits so many seconds before the store is asked again
    """

    def __init__(self, file: ListedFile, pause: Callable[[float], None] = time.sleep) -> None:
        self.url, self.size, self.mtime_ns, self._etag = file
        # A store that does not tell sizes tells nothing else, either.
        self.is_sized = bool(file.size) or file.mtime_ns is not None or file.etag is not None
        self._pause = pause

    @cached_property
    def _place(self) -> tuple[Any, str]:
        return locate(self.url)[:2]

    @cached_property
    def _conditional(self) -> Callable[[Any, str, int, int, Any], bytes] | None:
        """What reads under a condition; None where that is not known, or there is no tag."""
        driver = type(self._place[0]).__module__.partition(".")[0]
        return _CONDITIONAL.get(driver) if self._etag else None

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from one offset to another one; none where the file has none.

        :raises InputChangedError: when it is not what was listed
        :raises LoadError: when it cannot be read
        """
        if self.is_sized:
            end = min(end, self.size)
            if end <= start:
                return b""
        data: bytes = self._ask(lambda: self._read(start, end))
        if self.is_sized and len(data) != end - start:
            raise self._changed()
        return data

    def verify(self, was_read: bool = True) -> None:
        """Make sure that what was read is what was listed.

        :param was_read: whether anything was
        :raises InputChangedError: when it is not
        :raises LoadError: when that cannot be found out
        """
        if self.is_sized and not (was_read and self._conditional):
            self._compare()

    def _read(self, start: int, end: int) -> bytes:
        fs, path = self._place
        if self._conditional is not None:
            return self._conditional(fs, path, start, end, self._etag)
        if not self.is_sized:
            return bytes(fs.cat_file(path))[start:end]
        data = read_range(fs, path, start, end)
        # A web server may know no ranges.
        return data if len(data) <= end - start else data[start:end]

    def _compare(self) -> None:
        size, mtime_ns, etag = state_of(self._ask(self._info))
        if self._etag and etag:
            same = etag == self._etag
        else:
            same = None in (mtime_ns, self.mtime_ns) or mtime_ns == self.mtime_ns
        if not same or size != self.size:
            raise self._changed()

    def _info(self) -> dict[str, Any]:
        fs, path = self._place
        found: dict[str, Any] = fs.info(path)
        return found

    def _changed(self) -> InputChangedError:
        return InputChangedError(f"{self.url} has changed since it was listed")

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return insist(question, self.url, self._pause)
        except FileNotFoundError:
            raise InputChangedError(f"{self.url} was listed and is not there any more") from None
        except Exception as error:  # noqa: BLE001 - every driver raises errors of its own
            # First the tag: that a range is not there is the same refusal as any.
            if status_of(error) == _PRECONDITION_FAILED:
                raise self._why_not() from None
            raise LoadError(f"{self.url} cannot be read: {told(error)}") from None

    def _why_not(self) -> Exception:
        """Return why the tag is another one: some stores say so of what is not there."""
        try:
            self._info()
        except FileNotFoundError:
            return InputChangedError(f"{self.url} was listed and is not there any more")
        except Exception as error:  # noqa: BLE001 - as above
            logger.info("%s: %s", self.url, told(error))
        return self._changed()


class ReadAhead:
    """The bytes of a file in a store, for one who reads it mostly on and on; the source of a TextFile.

    :param file: the file
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._at, self._block = 0, b""
        self._size = _LEAST_BLOCK_BYTES

    def read(self, at: int, length: int) -> bytes:
        """Return so many bytes from an offset on; fewer only at the end of the file.

        :raises InputChangedError: when it is not what was listed
        :raises LoadError: when it cannot be read
        """
        first = at - self._at
        if first < 0 or first + length > len(self._block):
            kept = self._block[first:] if 0 <= first < len(self._block) else b""
            # Read on, and more each time; or somewhere else, where little may be wanted.
            reads_on = bool(self._block) and 0 <= first <= len(self._block)
            self._size = min(2 * self._size, _BLOCK_BYTES) if reads_on else _LEAST_BLOCK_BYTES
            start = at + len(kept)
            self._block = kept + self._file.read(start, start + max(length - len(kept), self._size))
            self._at, first = at, 0
        return self._block[first : first + length]

    def open(self) -> io.BufferedIOBase:
        """Return it as a file of Python's."""
        return io.BufferedReader(_Raw(self, self._file))

    def close(self) -> None:
        """Make sure that what was read is what was listed.

        :raises InputChangedError: when it is not
        """
        self._block = b""
        self._file.verify()


class _Raw(io.RawIOBase):
    def __init__(self, source: ReadAhead, file: RemoteFile) -> None:
        self._source = source
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _read_azure(fs: Any, path: str, start: int, end: int, etag: str) -> bytes:
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceNotFoundError
    from fsspec.asyn import sync

    container, name, version = fs.split_path(path)

    async def read() -> bytes:
        async with fs.service_client.get_blob_client(container, name) as blob:
            stream = await blob.download_blob(
                offset=start,
                length=end - start,
                version_id=version,
                etag=etag,
                match_condition=MatchConditions.IfNotModified,
            )
            data: bytes = await stream.readall()
            return data

    try:
        data: bytes = sync(fs.loop, read)
    except ResourceNotFoundError as error:
        raise FileNotFoundError(path) from error
    return data


def _read_s3(fs: Any, path: str, start: int, end: int, etag: str) -> bytes:
    from fsspec.asyn import sync

    bucket, key, version = fs.split_path(path)
    versioned = {"VersionId": version} if version else {}

    async def read() -> bytes:
        found = await fs._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=etag, **versioned
        )
        async with found["Body"] as body:
            data: bytes = await body.read()
            return data

    data: bytes = sync(fs.loop, read)
    return data


# By the package of the driver.
_CONDITIONAL: dict[str, Callable[[Any, str, int, int, Any], bytes]] = {
    "adlfs": _read_azure,
    "s3fs": _read_s3,
}
