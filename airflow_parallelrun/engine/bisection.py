# SPDX-License-Identifier: Apache-2.0
"""Bisection: a mini-batch whose last try failed is halved until what fails is alone.

Its parts are run like mini-batches, each once, in whatever process is free. Nothing of it is journalled
before all of them have ended: then the mini-batch has one line as any other, with the rows of those that
succeeded. A node that dies before that begins again with the whole.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.journal import Line, Part
from airflow_parallelrun.worker.protocol import FAILED, OK, SHORT

if TYPE_CHECKING:
    from collections.abc import Iterable


class Bisection:
    """What is known of a mini-batch's parts.

    :param items: how many it has
    :param kept: parts that an earlier round has settled for good
    """

    def __init__(self, items: int, kept: Iterable[Part] = ()) -> None:
        self._parts = list(kept)
        self._left = items - sum(part.items for part in self._parts)
        self._seconds = self._cpu_seconds = 0.0

    @property
    def failed_items(self) -> int:
        """Items of parts that are settled and did not succeed."""
        return sum(part.items - part.items_ok for part in self._parts)

    def settle(self, first: int, line: Line) -> Line | None:
        """Take note of what became of a part.

        :param first: its first item's place in the mini-batch
        :param line: as if it were a mini-batch of its own
        :return: the line of the whole, when this was the last one
        """
        self._parts.append(
            Part(first, line.items_in, line.status, line.items_ok, line.rows_out, line.extents, line.error)
        )
        self._left -= line.items_in
        self._seconds += line.seconds
        self._cpu_seconds += line.cpu_seconds
        return None if self._left else self._line(line)

    def _line(self, last: Line) -> Line:
        parts = _joined(sorted(self._parts, key=lambda part: part.first))
        wrong = next((part.error for part in parts if part.error is not None), None)
        items_ok = sum(part.items_ok for part in parts)
        items_in = sum(part.items for part in parts)
        return last._replace(
            status=OK if wrong is None else SHORT if items_ok else FAILED,
            items_in=items_in,
            items_ok=items_ok,
            rows_out=sum(part.rows_out for part in parts),
            extents=[extent for part in parts for extent in part.extents],
            seconds=self._seconds,
            cpu_seconds=self._cpu_seconds,
            finished=time.time(),
            error=wrong and {**wrong, "traceback": ""},
            parts=parts if wrong is not None else (),
        )


def _joined(parts: list[Part]) -> list[Part]:
    """Join neighbours that succeeded."""
    joined: list[Part] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before is not None and before.status == part.status == OK:
            joined[-1] = before._replace(
                items=before.items + part.items,
                items_ok=before.items_ok + part.items_ok,
                rows_out=before.rows_out + part.rows_out,
                extents=[*before.extents, *part.extents],
            )
        else:
            joined.append(part)
    return joined
