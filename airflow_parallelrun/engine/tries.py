# SPDX-License-Identifier: Apache-2.0
"""What the result of a try leads to: another try, halves of the mini-batch, or its line in the journal."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.bisection import Bisection
from airflow_parallelrun.engine.budget import IGNORE
from airflow_parallelrun.engine.finished import Finished
from airflow_parallelrun.engine.journal import Extent, Line
from airflow_parallelrun.engine.portions import Portion, PortionQueue
from airflow_parallelrun.worker import protocol

if TYPE_CHECKING:
    from airflow_parallelrun.config import ParallelRunConfig

logger = logging.getLogger(__name__)

# Full tracebacks in the journal, for each kind of error; the process's error log has all of them.
_TRACEBACKS = 3

# Failures that a node logs, for each kind of error.
FAILURES_TOLD = 3

# No other try changes these, nor other company.
_SETTLED = ("InputChangedError", "RowError")
# What the script has no part in; to halve the mini-batch would tell nothing.
_NOT_THE_SCRIPTS = (*_SETTLED, "LoadError")
_SHORT_RETURN = "ShortReturn"


class Tries:
    """Mini-batches on their way from one try to the next.

    :param config: how often, and what else to do about failures
    """

    def __init__(self, config: ParallelRunConfig) -> None:
        self._config = config
        self._seen: Counter[tuple[str, str]] = Counter()
        self._told: Counter[tuple[str, str, str]] = Counter()
        self.queue = PortionQueue()
        self.finished: list[Finished] = []

    def go_on(self, line: Line, alone: bool = False) -> None:
        """Queue the parts of a mini-batch that have not succeeded.

        :param line: what an earlier round came to, with parts
        :param alone: whether each of them is to run alone
        """
        bisection = Bisection(line.items_in, [part for part in line.parts if part.error is None])
        for part in line.parts:
            if part.error is not None:
                best = _better(None, part.as_line(line))
                self.queue.add([Portion(line.ordinal, 1, 1, best, bisection, part.first, part.items, alone)])

    def take(self, portion: Portion, line: Line) -> None:
        """Take the line that a try would have as the last one, and decide whether it is.

        :param portion: one mini-batch, or a part of one
        """
        if line.status == protocol.OK:
            self._finish(portion, line)
        elif self._deserves_another(portion, line):
            self._tell(logging.INFO, portion, line, "failed and will be tried again")
            self.queue.add([portion._replace(tries=portion.tries + 1, best=_better(portion.best, line))])
        elif self._deserves_halving(portion, line):
            self._tell(logging.INFO, portion, line, "failed and is halved")
            self._halve(portion, line.items_in)
        else:
            self._finish(portion, _better(portion.best, line) or line)

    def _deserves_another(self, portion: Portion, line: Line) -> bool:
        assert line.error is not None
        kind = line.error["type"]
        if portion.tries >= self._config.run_max_try or kind in _SETTLED:
            return False
        return not line.succeeded or (
            kind == _SHORT_RETURN and self._config.retry_short_returns and portion.bisection is None
        )

    def _deserves_halving(self, portion: Portion, line: Line) -> bool:
        assert line.error is not None
        if not self._config.bisect_failures or line.succeeded or portion.best is not None:
            return False
        if line.items_in < 2 or line.error["type"] in _NOT_THE_SCRIPTS:
            return False
        # When single items have used up the whole tolerance the job fails, whatever the rest would come to.
        limit = self._config.error_threshold
        return limit == IGNORE or portion.bisection is None or portion.bisection.failed_items <= limit

    def _halve(self, portion: Portion, items: int) -> None:
        bisection = portion.bisection or Bisection(items)
        first, middle = portion.first, (items + 1) // 2
        # What fails in a part has failed in its whole before: no more tries, but halves until it is alone.
        halves = [
            portion._replace(bisection=bisection, first=first, items=middle),
            portion._replace(bisection=bisection, first=first + middle, items=items - middle),
        ]
        # First of all: so that single items are reached soon, and few mini-batches are in parts at a time.
        self.queue.add(halves, first=True)

    def _finish(self, portion: Portion, line: Line) -> None:
        if line.error is not None:
            self._tell(logging.WARNING, portion, line, "came back short" if line.succeeded else "failed")
            kind = (line.error["type"], line.error["frame"] or "")
            self._seen[kind] += 1
            if self._seen[kind] > _TRACEBACKS:
                line.error["traceback"] = ""
        if portion.bisection is not None:
            whole = portion.bisection.settle(portion.first, line)
            if whole is None:
                return
            line = whole
        self.finished.append(Finished.of(line))

    def _tell(self, level: int, portion: Portion, line: Line, what: str) -> None:
        """Log the first failures of a kind: a million of them would bury everything else."""
        assert line.error is not None
        kind = (what, line.error["type"], line.error["frame"] or "")
        self._told[kind] += 1
        if self._told[kind] <= FAILURES_TOLD:
            last = self._told[kind] == FAILURES_TOLD
            logger.log(
                level,
                "mini-batch %d%s, try %d of %d, %s: %s%s",
                line.ordinal,
                _items(portion),
                portion.tries,
                self._config.run_max_try,
                what,
                error_line(line.error),
                " (no more of this kind are logged here)" if last else "",
            )


def line_of(portion: Portion, result: protocol.Result, process: str, segment: str) -> Line:
    """Return the line of a result.

    :param process: the process's name
    :param segment: where its rows are
    """
    rows = [Extent(segment, result.offset, result.length, result.crc32)] if result.length else []
    return Line(
        ordinal=result.ordinal,
        status=result.status,
        tries=portion.tries,
        items_in=result.items_in,
        items_ok=result.items_ok,
        rows_out=result.rows_out,
        extents=rows,
        seconds=result.seconds,
        cpu_seconds=result.cpu_seconds,
        process=process,
        finished=time.time(),
        error=result.error,
    )


def error_line(error: dict[str, Any]) -> str:
    """Return a user's error in one line: type, message and the innermost frame of their own code."""
    place = f" ({error['frame']})" if error.get("frame") else ""
    return f"{error['type']}: {error['message']}{place}"


def _better(best: Line | None, line: Line) -> Line | None:
    """Return which of two tries that did not succeed in full is to count; None when both came to nothing."""
    if best is not None and best.items_ok >= line.items_ok:
        return best._replace(tries=line.tries)
    return line if line.succeeded else None


def _items(portion: Portion) -> str:
    if portion.bisection is None:
        return ""
    last = portion.first + portion.items - 1
    return f", item {last}" if portion.first == last else f", items {portion.first} to {last}"
