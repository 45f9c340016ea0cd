# SPDX-License-Identifier: Apache-2.0
"""The items of a plan while it is made: the lines that nodes will read, and where each begins."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import names
from airflow_parallelrun.exceptions import InputUnreadableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.datasets import FilePart, ListedFile
    from airflow_parallelrun.engine.store import Store

_HEADER = b'{"format_version":1,"lines":["input",["path","size","mtime_ns","etag","first","end"],"..."]}\n'
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Lines are joined to blocks of about this size: as single objects they take half as much again.
_BLOCK_BYTES = 1 << 20
# Opening a file costs about as much as reading this many bytes of it.
_FILE_WEIGHT = 4096
# More than any file system holds; a store may say anything.
_HEAVIEST = 1 << 60


class ItemWriter:
    """Takes the items in the order of the plan, and makes ``mini_batches.jsonl`` and its index of them.

    It holds the text, some 100 bytes for an item: nobody else may see anything of a run before its input is
    known to be good.
    """

    def __init__(self) -> None:
        self.weights = array("q")
        #: How many items there are; None once it is not known of one mini-batch.
        self.count: int | None = 0
        #: Whether another item can be told from each of them by path, size and time or tag.
        self.are_identifiable = True
        self._blocks: list[bytes] = [_HEADER]
        self._lines: list[bytes] = []
        self._starts = array("Q")
        self._end = self._packed = len(_HEADER)

    def add(self, input_number: int, files: Sequence[ListedFile]) -> None:
        """Add a mini-batch.

        :param input_number: its place in ``inputs``
        :param files: its items
        :raises InputUnreadableError: for a path that is no text
        """
        weight, items = 0, [str(input_number)]
        for path, size, mtime_ns, etag in files:
            weight += size + _FILE_WEIGHT
            changed = "null" if mtime_ns is None else mtime_ns
            more = "" if etag is None else "," + encode_basestring(etag)
            if mtime_ns is None and etag is None:
                self.are_identifiable = False
            items.append(f"[{encode_basestring(path)},{size},{changed}{more}]")
        self._add(items, weight, files)
        if self.count is not None:
            self.count += len(files)

    def add_parts(self, input_number: int, parts: Sequence[FilePart]) -> None:
        """Add a mini-batch of a table.

        :param input_number: its place in ``inputs``
        :param parts: where its rows are
        :raises InputUnreadableError: for a path that is no text
        """
        items = [str(input_number)]
        for part in parts:
            items.append(_encode(part.item))
            self.count = None if self.count is None or part.rows is None else self.count + part.rows
            if part.file.mtime_ns is None and part.file.etag is None:
                self.are_identifiable = False
        self._add(items, sum(part.weight for part in parts) + _FILE_WEIGHT, [part.file for part in parts])

    def _add(self, items: list[str], weight: int, files: Sequence[ListedFile]) -> None:
        try:
            data = f"[{','.join(items)}]\n".encode()
        except UnicodeEncodeError as error:
            path = next(file.path for file in files if not _is_text(file.path))
            raise InputUnreadableError(ascii(path), "its name is not UTF-8") from error
        self.weights.append(min(weight, _HEAVIEST))
        self._starts.append(self._end)
        self._end += len(data)
        self._lines.append(data)
        if self._end - self._packed >= _BLOCK_BYTES:
            self._pack()

    def sha256(self) -> str:
        """Return the digest of all items, and of how they are dealt out to mini-batches."""
        self._pack()
        found = hashlib.sha256()
        for block in self._blocks:
            found.update(block)
        return found.hexdigest()

    def write(self, store: Store) -> None:
        """Write both files, once.

        :raises StorageError: when they cannot be written
        """
        self._pack()
        self._starts.append(self._end)
        if sys.byteorder == "big":
            self._starts.byteswap()
        store.put(names.MINI_BATCHES, *self._blocks)
        store.put(names.MINI_BATCHES_INDEX, memoryview(self._starts).cast("B"))

    def _pack(self) -> None:
        self._blocks.append(b"".join(self._lines))
        self._lines.clear()
        self._packed = self._end


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
