# SPDX-License-Identifier: Apache-2.0
"""What a node takes on: chunks that it claims, without what was done in them before."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from airflow_parallelrun.engine.claims import Claims
from airflow_parallelrun.engine.journal import Line
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.worker.protocol import FAILED

if TYPE_CHECKING:
    from airflow_parallelrun.engine.history import History
    from airflow_parallelrun.engine.plan import Plan, PlanItems
    from airflow_parallelrun.engine.rounds import Started

# A mini-batch that was running in so many processes when their node died is what kills the machine.
POISON_DEATHS = 3


class TakenOn(NamedTuple):
    """A chunk that this node has claimed.

    :param portions: what is to be run
    :param partial: lines of mini-batches whose parts have not all succeeded
    :param poison: lines of mini-batches that are not run any more
    """

    portions: list[Portion]
    partial: list[Line]
    poison: list[Line]


class Intake:
    """The node's way to work.

    :param plan: the plan
    :param started: this start of the node
    :param history: what was done before
    :param items: the plan's items
    """

    def __init__(self, plan: Plan, started: Started, history: History, items: PlanItems) -> None:
        self._plan = plan
        self._history = history
        self._items = items
        self._claims = Claims(plan, started, history.chunks(plan))
        self._special = sorted(
            {ordinal for ordinal, deaths in history.deaths.items() if deaths >= POISON_DEATHS}
            | history.partial.keys()
        )

    @property
    def free(self) -> int:
        """How many chunks this node could still get, as far as it knows."""
        return self._claims.free

    @property
    def claim_seconds(self) -> float:
        """How long a claim takes here."""
        return self._claims.seconds

    def look(self) -> None:
        """Take note of what others have claimed meanwhile."""
        self._claims.look()

    def next(self) -> TakenOn | None:
        """Claim a chunk; None when there is none left."""
        chunk = self._claims.next()
        if chunk is None:
            return None
        start = self._plan.chunk_starts[chunk]
        end = start + self._plan.chunk_size(chunk)
        taken = TakenOn([], [], [])
        for ordinal in self._special[bisect_left(self._special, start) : bisect_left(self._special, end)]:
            if not self._history.finished[ordinal]:
                self._history.finished[ordinal] = 1  # not in a portion
                deaths = self._history.deaths[ordinal]
                if deaths >= POISON_DEATHS:
                    taken.poison.append(_poison(ordinal, self._items.count(ordinal), deaths))
                else:
                    taken.partial.append(self._history.partial[ordinal])
        taken.portions.extend(Portion(left.start, len(left)) for left in self._history.unfinished(start, end))
        return taken


def _poison(ordinal: int, items: int, deaths: int) -> Line:
    message = f"it was running in {deaths} node processes that died; it is not tried again"
    error = {"type": "NodeLost", "message": message, "frame": None, "traceback": "", "log": ""}
    return Line(ordinal, FAILED, deaths, items, 0, 0, [], 0.0, 0.0, "", time.time(), error)
