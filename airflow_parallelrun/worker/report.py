# SPDX-License-Identifier: Apache-2.0
"""What a worker process has to say of its mini-batches, in the order in which it ran them.

Quick ones come as a *streak*: neighbours that all succeeded in full at their first try, in one line, as it
will stand in the journal. To tell, journal and count them one by one would cost more than many a mini-batch
takes. What becomes of any other the node decides.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, List

from . import protocol

if TYPE_CHECKING:
    from .output import Segment

_LINE = (
    '{"streak":%d,"process":"%s","segment":"%s","offset":%d,"crc32":%d,"began":%.6f,'
    '"items":%s,"rows_out":%s,"lengths":%s,"run_us":%s,"cpu_us":%s,"ended_us":%s}\n'
)
_US = 1e-6


class Report:
    """Results that the node has not been told yet.

    :param segment: takes the rows; what of them waits in memory is written before it is told
    :param segment_name: the segment's name in the run directory
    :param process: the process's name
    """

    def __init__(self, segment: Segment, segment_name: str, process: str) -> None:
        self._segment = segment
        self._segment_name = segment_name
        self._process = process
        self._messages: List[bytes] = []
        # The streak: its first mini-batch, what would be next in it, and where its rows begin.
        self._feed = self._ordinal = self._offset = self._crc32 = self._begun_ns = 0
        self._next = -1
        # Of each of its mini-batches.
        self._items: List[int] = []
        self._rows_out: List[int] = []
        self._lengths: List[int] = []
        self._run_us: List[int] = []
        self._cpu_us: List[int] = []
        self._ended_us: List[int] = []
        # All of them, as they stand in the line.
        self._columns = (
            self._items,
            self._rows_out,
            self._lengths,
            self._run_us,
            self._cpu_us,
            self._ended_us,
        )

    def succeeded(
        self,
        feed: int,
        ordinal: int,
        items: int,
        rows_out: int,
        rows: bytes,
        times_ns: tuple[int, int, int, int],
    ) -> None:
        """Tell of a whole mini-batch that succeeded in full at its first try, and take its rows.

        :param times_ns: when it was begun, run() called, and run() over, on the monotonic clock; and the CPU
            time of run()
        :raises SegmentError: when rows cannot be written
        """
        begun, running, ended, cpu = times_ns
        if ordinal != self._next:
            self._end_streak()
            self._feed, self._ordinal, self._begun_ns = feed, ordinal, begun
            self._offset, self._crc32 = self._segment.end, 0
        self._next = ordinal + 1
        self._segment.append(rows)
        self._crc32 = zlib.crc32(rows, self._crc32)
        self._items.append(items)
        self._rows_out.append(rows_out)
        self._lengths.append(len(rows))
        self._run_us.append((ended - running) // 1000)
        self._cpu_us.append(cpu // 1000)
        self._ended_us.append((ended - self._begun_ns) // 1000)

    def tell(self, result: protocol.Result) -> None:
        """Tell of any other result."""
        self._end_streak()
        self._messages.append(protocol.encode(["result", *result]))

    def take(self) -> bytes:
        """Return what is to be sent, and forget it.

        :raises SegmentError: when rows cannot be written
        """
        self._segment.flush()
        self._end_streak()
        data = b"".join(self._messages)
        self._messages.clear()
        return data

    def _end_streak(self) -> None:
        if len(self._items) == 1:  # a slow one: its line is easier to read
            self._messages.append(protocol.encode(["result", *self._single()]))
        elif self._items:
            line = self._streak()
            seconds = self._ended_us[-1] * _US
            told = [
                self._feed,
                len(self._items),
                sum(self._items),
                sum(self._run_us) * _US,
                seconds,
                sum(self._lengths),
                len(line),
            ]
            self._messages += protocol.encode(["streak", *told]), line
        self._next = -1
        for column in self._columns:
            column.clear()

    def _single(self) -> protocol.Result:
        items, length = self._items[0], self._lengths[0]
        return protocol.Result(
            feed=self._feed,
            ordinal=self._ordinal,
            status=protocol.OK,
            items_in=items,
            items_ok=items,
            rows_out=self._rows_out[0],
            offset=self._offset if length else 0,
            length=length,
            crc32=self._crc32,
            seconds=self._run_us[0] * _US,
            cpu_seconds=self._cpu_us[0] * _US,
            error=None,
        )

    def _streak(self) -> bytes:
        """Return the streak's line; a list of integers as Python writes it is JSON."""
        began = time.time() - (time.monotonic_ns() - self._begun_ns) * 1e-9
        line = _LINE % (
            self._ordinal,
            self._process,
            self._segment_name,
            self._offset,
            self._crc32,
            began,
            *self._columns,
        )
        return line.encode()
