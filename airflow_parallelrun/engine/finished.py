# SPDX-License-Identifier: Apache-2.0
"""Finished mini-batches on their way to the journal, and their count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.worker.protocol import FAILED, SHORT

if TYPE_CHECKING:
    from airflow_parallelrun.engine.journal import Line, Streak


@dataclass
class Tally:
    """Finished mini-batches and their items.

    :param done: mini-batches, of whatever outcome
    :param failed: mini-batches whose last try failed
    :param short: mini-batches that came back short
    :param items: of all of them
    :param items_failed: of these, those that did not succeed
    :param run_seconds: of all last run() calls together
    """

    done: int = 0
    failed: int = 0
    short: int = 0
    items: int = 0
    items_failed: int = 0
    run_seconds: float = 0.0

    @classmethod
    def of(cls, line: Line) -> Tally:
        """Count one line."""
        return cls(
            done=1,
            failed=int(line.status == FAILED),
            short=int(line.status == SHORT),
            items=line.items_in,
            items_failed=line.items_failed,
            run_seconds=line.seconds,
        )

    @property
    def failures(self) -> Failures:
        """What the thresholds are compared with."""
        return Failures(self.items_failed, self.failed + self.short)

    def add(self, other: Tally) -> None:
        """Count others, too."""
        self.done += other.done
        self.failed += other.failed
        self.short += other.short
        self.items += other.items
        self.items_failed += other.items_failed
        self.run_seconds += other.run_seconds


class Finished(NamedTuple):
    """Lines for the journal, from one process and in one go.

    :param data: the lines, as they will stand there
    :param tally: what they come to
    :param segments: where their rows are
    :param row_bytes: how long these are
    """

    data: bytes
    tally: Tally
    segments: frozenset[str]
    row_bytes: int = 0

    @classmethod
    def of(cls, entry: Line | Streak) -> Finished:
        """Take one line."""
        tally = Tally()
        for line in entry.lines():
            tally.add(Tally.of(line))
        extents = entry.extents
        row_bytes = sum(extent.length for extent in extents)
        return cls(entry.encode(), tally, frozenset(extent.segment for extent in extents), row_bytes)
