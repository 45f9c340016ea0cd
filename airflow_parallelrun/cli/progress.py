# SPDX-License-Identifier: Apache-2.0
"""Shows how far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from airflow_parallelrun.engine.progress import Progress

SECONDS_BETWEEN_LINES = 5.0
# Says that it is alive while nothing gets done, such as in a long init().
SECONDS_BETWEEN_EQUAL_LINES = 60.0


@dataclass(frozen=True)
class Totals:
    """All nodes together.

    :param rate: mini-batches per second since this command started
    :param seconds_left: None while nothing is done, and when all is
    """

    total: int
    done: int
    failed: int
    rate: float
    seconds_left: float | None

    def __str__(self) -> str:
        return f"{self.done} of {self.total} mini-batches done, {self.details}"

    @property
    def details(self) -> str:
        """All but how many are done."""
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{self.failed} failed, {_rate(self.rate)}/s{left}"


class Display(Protocol):
    """What a run shows while it goes on; called from one thread at a time."""

    def show(self, totals: Totals) -> None:
        """Show *totals*, or leave it for later."""

    def close(self) -> None:
        """Show the last totals, if that was left for later."""


class Board:
    """Adds up the nodes' progress and hands it to a display.

    :param total: mini-batches of the whole job; a later round has fewer to do, and its nodes say how many
    """

    def __init__(self, total: int, display: Display) -> None:
        self.total = total
        self._display = display
        self._started = time.monotonic()
        self._latest: dict[int, Progress] = {}
        self._lock = threading.Lock()

    def update(self, progress: Progress) -> None:
        """Take a node's latest progress, from any thread."""
        with self._lock:
            self._latest[progress.node] = progress
            self.total = progress.mini_batches_total
            self._display.show(self._totals())

    def close(self) -> None:
        """End the display."""
        with self._lock:
            self._display.close()

    @property
    def done(self) -> int:
        """Mini-batches that are finished, in all nodes."""
        return sum(progress.mini_batches_done for progress in self._latest.values())

    def _totals(self) -> Totals:
        seconds = max(time.monotonic() - self._started, 1e-3)
        done = self.done
        new = done - sum(progress.mini_batches_before for progress in self._latest.values())
        failed = sum(progress.mini_batches_failed for progress in self._latest.values())
        left = (self.total - done) * seconds / new if new and done < self.total else None
        return Totals(self.total, done, failed, new / seconds, left)


class Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_time = time.monotonic()
        self._last_done = 0
        self._pending: Totals | None = None

    def show(self, totals: Totals) -> None:
        """Print a line, unless the last one is only a few seconds old or said the same."""
        self._pending = totals
        age = time.monotonic() - self._last_time
        changed = totals.done != self._last_done
        if age >= (SECONDS_BETWEEN_LINES if changed else SECONDS_BETWEEN_EQUAL_LINES):
            self.close()

    def close(self) -> None:
        """Print what has not been printed."""
        if self._pending is not None:
            print(self._pending, file=self._stream, flush=True)
            self._last_time, self._last_done = time.monotonic(), self._pending.done
            self._pending = None


class Bar:
    """A bar that redraws itself; other output on the terminal stays above it."""

    def __init__(self, total: int, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("mini-batches, {task.fields[details]}"),
            TimeElapsedColumn(),
            console=Console(file=stream),
            # Few: every redraw takes time from the thread that feeds the workers.
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total, details="starting")
        self._bar.start()

    def show(self, totals: Totals) -> None:
        """Move the bar."""
        self._bar.update(self._task, total=totals.total, completed=totals.done, details=totals.details)

    def close(self) -> None:
        """Leave the bar as it is now."""
        self._bar.stop()


def display_for(total: int, stream: TextIO) -> Display:
    """A bar if *stream* is a terminal that can move its cursor, else lines."""
    movable = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Bar(total, stream) if movable else Lines(stream)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A length of time as people read it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
