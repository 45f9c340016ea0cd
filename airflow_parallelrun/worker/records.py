# SPDX-License-Identifier: Apache-2.0
r"""Where records begin and end in a text file, without parsing them.

A record is a line that is not blank; or, where quoted fields may have line breaks in them, as many lines as
its quotation marks hold together. A line ends with ``\n``, ``\r\n`` or ``\r``.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import itertools
import lzma
import os
import re
import zlib
from typing import IO, Any, Iterator, List, Optional, Tuple

from .errors import LoadError
from .items import pread

_BLOCK_BYTES = 1 << 20
# A longer record is taken for one whose quotation mark is not closed.
RECORD_BYTES = 1 << 26
# What is looked at for the next line break: most lines are shorter.
_LINE_BYTES = 1 << 12

_LINE_BREAK = re.compile(rb"\r\n?|\n")
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MARKS = {"utf-8": codecs.BOM_UTF8, "utf-8-sig": codecs.BOM_UTF8}
_ASCII = bytes(range(128))


def is_stream(path: str, encoding: str) -> bool:
    """Whether a file can only be read from its beginning: it is compressed, or not a superset of ASCII."""
    return os.path.splitext(path)[1].lower() in _OPENERS or not _is_superset_of_ascii(encoding)


def bytes_encoding(encoding: str) -> str:
    """The encoding of what :class:`TextFile` gives for a file in an encoding."""
    if not _is_superset_of_ascii(encoding):
        return "utf-8"
    return "utf-8" if encoding == "utf-8-sig" else encoding


def _is_superset_of_ascii(encoding: str) -> bool:
    # An encoder that begins with a byte-order mark is none either, but this one is that of UTF-8.
    return encoding == "utf-8-sig" or _ASCII.decode("ascii").encode(encoding) == _ASCII


class LocalBytes:
    """The bytes of a file.

    :param path: where it is
    :raises OSError: when it cannot be opened
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, at: int, length: int) -> bytes:
        """Return so many bytes from an offset on; fewer only at the end of the file.

        :raises OSError: when it cannot be read
        """
        return pread(self._fd, length, at)

    def open(self) -> IO[bytes]:
        """Return it as a file to be read from its beginning."""
        file = os.fdopen(os.dup(self._fd), "rb")
        file.seek(0)
        return file

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class TextFile:
    """The bytes of a text file, in an encoding in which line breaks and ASCII are single bytes.

    Offsets are in these bytes. A file that is a stream is read on from where it was read last, as far as that
    is possible, and else from its beginning.

    :param path: the file, as the plan has it
    :param encoding: Python's name of it
    :param source: its bytes, closed with it; None for those of the local file
    :raises OSError: when it cannot be opened
    """

    def __init__(self, path: str, encoding: str, source: Optional[Any] = None) -> None:
        self.path = path
        self._encoding = encoding
        self._stream: Optional[Iterator[bytes]] = None
        self._rest = b""
        self._at = 0
        self._is_stream = is_stream(path, encoding)
        self._source: Any = LocalBytes(path) if source is None else source

    def close(self) -> None:
        """Close it."""
        self._source.close()

    @property
    def is_stream(self) -> bool:
        """Whether it can only be read from its beginning."""
        return self._is_stream

    def read(self, at: int, length: int) -> bytes:
        """Return so many bytes from an offset on; fewer only at the end of the file.

        :raises LoadError: when it cannot be decompressed or decoded
        :raises OSError: when it cannot be read
        """
        if not self._is_stream:
            data: bytes = self._source.read(at, length)
            return data
        if self._stream is None or at < self._at:
            self._stream, self._rest, self._at = self._blocks(), b"", 0
        pieces: List[bytes] = []
        while length:
            while at - self._at >= len(self._rest):
                self._at += len(self._rest)
                self._rest = self._next_block()
                if not self._rest:
                    return b"".join(pieces)
            first = at - self._at
            pieces.append(self._rest[first : first + length])
            length -= len(pieces[-1])
            at += len(pieces[-1])
        return b"".join(pieces)

    def _next_block(self) -> bytes:
        assert self._stream is not None
        try:
            return next(self._stream, b"")
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise LoadError(f"{self.path} is damaged or of another kind: {error}") from error

    def _blocks(self) -> Iterator[bytes]:
        opener: Any = _OPENERS.get(os.path.splitext(self.path)[1].lower(), _as_it_is)
        file: IO[bytes]
        with self._source.open() as packed, opener(packed, "rb") as file:
            if _is_superset_of_ascii(self._encoding):
                while block := file.read(_BLOCK_BYTES):
                    yield block
                return
            decoder = codecs.getincrementaldecoder(self._encoding)()
            while block := file.read(_BLOCK_BYTES):
                if text := decoder.decode(block):
                    yield text.encode()
            if text := decoder.decode(b"", final=True):
                yield text.encode()


def _as_it_is(file: IO[bytes], _mode: str) -> IO[bytes]:
    return file


def next_line(file: TextFile, at: int) -> int:
    """Return where the first line begins that begins at an offset or behind it; at most the file's end."""
    if at <= 0:
        return 0
    at -= 1
    while block := file.read(at, _LINE_BYTES):
        found = _LINE_BREAK.search(block)
        if found is None:
            at += len(block)
        elif found.end() == len(block) and block.endswith(b"\r"):
            return at + len(block) + (file.read(at + len(block), 1) == b"\n")
        else:
            return at + found.end()
    return at


def first_record(file: TextFile, records: Records, encoding: str) -> Tuple[int, bytes, int]:
    """Return where the first record of a file begins, behind a byte-order mark, its bytes, and its end."""
    start = 0
    mark = _MARKS.get(encoding, codecs.BOM_UTF8 if is_stream(file.path, encoding) else b"")
    if mark and file.read(0, len(mark)) == mark:
        start = len(mark)
    for first, record in records.of(file, start):
        return first, record, first + len(record)
    return start, b"", start


def count_line_breaks(file: TextFile, begin: int, end: int) -> int:
    """Return how many line breaks there are between two offsets, the first of which begins a line."""
    count, last = 0, b""
    while begin < end and (block := file.read(begin, min(_BLOCK_BYTES, end - begin))):
        count += line_breaks(block) - (last == b"\r" and block.startswith(b"\n"))
        last = block[-1:]
        begin += len(block)
    return count


def line_breaks(block: bytes) -> int:
    """Return how many line breaks there are in bytes."""
    return block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")


class Records:
    """Cuts bytes into records.

    :param separator: between fields
    :param quoted: whether a line break within quotation marks is part of a field
    """

    def __init__(self, separator: str, quoted: bool) -> None:
        between = re.escape(separator.encode())
        self._blank = b" \t".replace(separator.encode(), b"")
        self._record: Optional[re.Pattern[bytes]] = None
        if quoted:
            # As pandas reads it: a mark opens a field at its beginning only, and two of them in it are one.
            plain = rb"[^%s\r\n]*" % between
            field = rb'(?:"[^"]*(?:""[^"]*)*"(?!")%s|(?!")%s)' % (plain, plain)
            self._record = re.compile(rb"%s(?:%s%s)*(?:\r\n?|\n)" % (field, between, field))

    def split(self, block: bytes) -> List[bytes]:
        """Return the records in bytes that begin and end with one; blank lines are left out."""
        return [record for _, record in self.places(block)]

    def places(self, block: bytes) -> Iterator[Tuple[int, bytes]]:
        """Yield the records in such bytes, each with where it begins."""
        found, rest = self._whole(block)
        at = 0
        for record in (*found, rest):
            if not self._is_blank(record):
                yield at, record
            at += len(record)

    def within(self, file: TextFile, begin: int, end: int) -> Iterator[Tuple[int, bytes]]:
        """Yield the records between two offsets at which records begin; as :meth:`of`."""
        return itertools.takewhile(lambda record: record[0] < end, self.of(file, begin))

    def of(self, file: TextFile, at: int) -> Iterator[Tuple[int, bytes]]:
        """Yield the records of a file from an offset on, each with where it begins.

        :raises LoadError: when one is longer than 64 MiB, and when the file is damaged
        :raises OSError: when it cannot be read
        """
        rest, size = b"", _LINE_BYTES
        while block := file.read(at + len(rest), size):
            found, rest = self._whole(rest + block)
            for record in found:
                if not self._is_blank(record):
                    yield at, record
                at += len(record)
            if len(rest) > RECORD_BYTES:
                raise LoadError(
                    f"{file.path}, byte {at}: a record of more than {RECORD_BYTES} bytes; is a quotation "
                    "mark not closed?"
                )
            # Twice as much for one that does not fit: it is looked at from its beginning again.
            size = max(_BLOCK_BYTES, len(rest))
        if not self._is_blank(rest):
            yield at, rest

    def _is_blank(self, record: bytes) -> bool:
        return not record.strip(b"\r\n").strip(self._blank)

    def _whole(self, block: bytes) -> Tuple[List[bytes], bytes]:
        """Return the records that end in a block, blank lines as well, and what is behind them."""
        if self._record is None or b'"' not in block:
            lines = block.splitlines(keepends=True)
            # What a \r ends may have its \n in the next block.
            rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            return lines, rest
        found, end = [], 0
        while match := self._record.match(block, end):
            if match.end() == len(block) and not block.endswith(b"\n"):
                break
            found.append(match[0])
            end = match.end()
        return found, block[end:]
