# SPDX-License-Identifier: Apache-2.0
"""The items of mini-batches, read where split has written them.

``mini_batches.jsonl`` has one line for each mini-batch: an array of the number of its input and its items.
``mini_batches.index`` has the byte at which each begins. So a process that is told ordinals reads its own
items, and the node never holds any.
"""

from __future__ import annotations

import array
import json
import os
import sys
from typing import Any, List

# A line's items: path or URL, size, time of change in ns or None, and the store's etag if it has one. Of a
# table it is a part of a file: behind these stands where that begins and where it ends.
Item = List[Any]

# Places in an item of a table: where its rows begin and end, in bytes of a text file or rows of Parquet; and,
# where they are known, the first of these rows that is meant, and the one behind the last.
FIRST, END, ONLY, UNTIL = 4, 5, 6, 7

# So much is read ahead, as far as it was asked for: neighbours are cheaper together.
_BLOCK_BYTES = 1 << 20
_OFFSET_BYTES = 8


class ItemReader:
    """The items of a plan's mini-batches.

    :param lines: path of ``mini_batches.jsonl``
    :param index: path of ``mini_batches.index``
    """

    def __init__(self, lines: str, index: str) -> None:
        self._lines = os.open(lines, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._index = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._lines)
            raise
        self._first = 0
        self._block: List[List[Any]] = []

    def close(self) -> None:
        """Close both files."""
        os.close(self._lines)
        os.close(self._index)

    def read(self, ordinal: int, ahead: int = 1) -> List[Any]:
        """Return the line of a mini-batch: the number of its input, and its items.

        :param ahead: how many mini-batches from this one on will be asked for
        :raises ValueError: when the files do not have it
        """
        place = ordinal - self._first
        if not 0 <= place < len(self._block):
            try:
                self._block = self._read(ordinal, ahead)
            except (TypeError, OverflowError) as error:
                raise ValueError(f"the plan is damaged at mini-batch {ordinal}: {error}") from error
            self._first, place = ordinal, 0
        return self._block[place]

    def _read(self, first: int, count: int) -> List[List[Any]]:
        """Read mini-batches, as many as a block has room for and one at least."""
        starts = array.array("Q")
        starts.frombytes(os.pread(self._index, (count + 1) * _OFFSET_BYTES, first * _OFFSET_BYTES))
        if sys.byteorder == "big":
            starts.byteswap()
        if len(starts) < 2:
            raise ValueError(f"the plan has no mini-batch {first}")
        last = 1
        while last + 1 < len(starts) and starts[last + 1] - starts[0] <= _BLOCK_BYTES:
            last += 1
        text = pread(self._lines, starts[last] - starts[0], starts[0])
        # As one document: to parse it costs an eighth of what its lines cost one by one. A newline is
        # nowhere else than at the end of a line: in a text it is escaped.
        found: List[List[Any]] = json.loads("[" + text.decode()[:-1].replace("\n", ",") + "]")
        if len(found) != last:
            raise ValueError(f"the lines of the plan and their index do not fit at mini-batch {first}")
        return found


def pread(fd: int, length: int, at: int) -> bytes:
    """Read a range, and less at the end of a file only; a single call returns no more than 2 GiB."""
    pieces = []
    while length and (piece := os.pread(fd, length, at)):
        pieces.append(piece)
        length -= len(piece)
        at += len(piece)
    return b"".join(pieces)
