# SPDX-License-Identifier: Apache-2.0
"""What the result of a try leads to: another try, halves of the mini-batch, or its line in the journal."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.engine.bisection import Bisection, Piece
from airflow_parallelrun.engine.budget import IGNORE
from airflow_parallelrun.engine.journal import Extent, Line
from airflow_parallelrun.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.plan import MiniBatch

logger = logging.getLogger(__name__)

# Full tracebacks in the journal, for each kind of error; the process's error log has all of them.
_TRACEBACKS = 3

# Failures that a node logs, for each kind of error.
FAILURES_TOLD = 3

# No other try and no other company changes these.
_INPUT_CHANGED = "InputChangedError"
_SHORT_RETURN = "ShortReturn"


class Fed(NamedTuple):
    """A mini-batch, or a part of one, that waits for a process or is with one.

    :param mini_batch: what run() gets
    :param tries: which try this is, from 1
    :param best: what an earlier try came back with that was short; None without one
    :param bisection: what this is a part of; None for a whole mini-batch
    :param first: of a part, the first item's place in the mini-batch
    """

    mini_batch: MiniBatch
    tries: int
    best: Line | None = None
    bisection: Bisection | None = None
    first: int = 0

    @property
    def message(self) -> list[Any]:
        """What the process is told, behind the feed number; see ``worker/protocol.py``."""
        if self.bisection is not None:
            return [*self.mini_batch, self.tries, self.first]
        return [*self.mini_batch, self.tries] if self.tries > 1 else list(self.mini_batch)


class Tries:
    """Mini-batches on their way from one try to the next.

    :param config: how often, and what else to do about failures
    """

    def __init__(self, config: ParallelRunConfig) -> None:
        self._config = config
        self._seen: Counter[tuple[str, str]] = Counter()
        self._told: Counter[tuple[str, str, str]] = Counter()
        self.queue: deque[Fed] = deque()
        self.finished: list[Line] = []

    def add(self, mini_batches: Iterable[MiniBatch]) -> None:
        """Queue new mini-batches."""
        self.queue.extend(Fed(mini_batch, 1) for mini_batch in mini_batches)

    def go_on(self, mini_batch: MiniBatch, line: Line) -> None:
        """Queue the parts of a mini-batch that have not succeeded.

        :param line: what an earlier round came to, with parts
        """
        bisection = Bisection(mini_batch, [part for part in line.parts if part.error is None])
        for part in line.parts:
            if part.error is not None:
                piece, best = bisection.piece(part), _better(None, part.as_line(line))
                self.queue.append(Fed(piece.mini_batch, 1, best, bisection, piece.first))

    def take(self, fed: Fed, line: Line) -> None:
        """Take the line that a try would have as the last one, and decide whether it is."""
        if line.status == protocol.OK:
            self._finish(fed, line)
        elif self._deserves_another(fed, line):
            self._tell(logging.INFO, fed, line, "failed and will be tried again")
            self.queue.append(fed._replace(tries=fed.tries + 1, best=_better(fed.best, line)))
        elif self._deserves_halving(fed, line):
            self._tell(logging.INFO, fed, line, "failed and is halved")
            self._halve(fed)
        else:
            self._finish(fed, _better(fed.best, line) or line)

    def _deserves_another(self, fed: Fed, line: Line) -> bool:
        assert line.error is not None
        kind = line.error["type"]
        if fed.tries >= self._config.run_max_try or kind == _INPUT_CHANGED:
            return False
        return not line.succeeded or (
            kind == _SHORT_RETURN and self._config.retry_short_returns and fed.bisection is None
        )

    def _deserves_halving(self, fed: Fed, line: Line) -> bool:
        assert line.error is not None
        if not self._config.bisect_failures or line.succeeded or fed.best is not None:
            return False
        if len(fed.mini_batch.items) < 2 or line.error["type"] == _INPUT_CHANGED:
            return False
        # When single items have used up the whole tolerance the job fails, whatever the rest would come to.
        limit = self._config.error_threshold
        return limit == IGNORE or fed.bisection is None or fed.bisection.failed_items <= limit

    def _halve(self, fed: Fed) -> None:
        bisection = fed.bisection or Bisection(fed.mini_batch)
        # What fails in a part has failed in its whole before: no more tries, but halves until it is alone.
        halves = [
            fed._replace(mini_batch=piece.mini_batch, bisection=bisection, first=piece.first)
            for piece in Piece(fed.first, fed.mini_batch).halves()
        ]
        # First of all: so that single items are reached soon, and few mini-batches are in parts at a time.
        self.queue.extendleft(reversed(halves))

    def _finish(self, fed: Fed, line: Line) -> None:
        if line.error is not None:
            self._tell(logging.WARNING, fed, line, "came back short" if line.succeeded else "failed")
            kind = (line.error["type"], line.error["frame"] or "")
            self._seen[kind] += 1
            if self._seen[kind] > _TRACEBACKS:
                line.error["traceback"] = ""
        if fed.bisection is not None:
            whole = fed.bisection.settle(fed.first, line)
            if whole is None:
                return
            line = whole
        self.finished.append(line)

    def _tell(self, level: int, fed: Fed, line: Line, what: str) -> None:
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
                _items(fed),
                fed.tries,
                self._config.run_max_try,
                what,
                error_line(line.error),
                " (no more of this kind are logged here)" if last else "",
            )


def line_of(fed: Fed, result: protocol.Result, process: str, segment: str) -> Line:
    """Return the line of a result.

    :param process: the process's name
    :param segment: where its rows are
    """
    rows = [Extent(segment, result.offset, result.length, result.crc32)] if result.length else []
    return Line(
        ordinal=result.ordinal,
        status=result.status,
        tries=fed.tries,
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


def _items(fed: Fed) -> str:
    if fed.bisection is None:
        return ""
    last = fed.first + len(fed.mini_batch.items) - 1
    return f", item {last}" if fed.first == last else f", items {fed.first} to {last}"
