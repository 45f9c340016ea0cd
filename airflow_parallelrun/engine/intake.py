# SPDX-License-Identifier: Apache-2.0
"""What a node takes on: chunks that it claims, without what was done in them before."""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

# A mini-batch that was running in so many node processes when they died is what kills the machine. In the
# last of them it has run alone: otherwise those that run beside it each time would be taken for it as well.
POISON_DEATHS = 3
_SUSPECT_DEATHS = POISON_DEATHS - 1


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
        suspects = {ordinal for ordinal in history.deaths if self.is_suspect(ordinal)}
        self._special = sorted(suspects | history.partial.keys())
        self._tell()

    @property
    def free(self) -> int:
        """How many chunks this node could still get, as far as it knows."""
        return self._claims.free

    @property
    def claim_seconds(self) -> float:
        """How long a claim takes here."""
        return self._claims.seconds

    def is_suspect(self, ordinal: int) -> bool:
        """Tell whether a mini-batch may be what has killed the machine."""
        return self._history.suspicion(ordinal) >= _SUSPECT_DEATHS

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
                self._history.finished[ordinal] = 1  # not in a portion with others
                if self._history.suspicion(ordinal) >= POISON_DEATHS:
                    deaths = self._history.deaths[ordinal]
                    taken.poison.append(_poison(ordinal, self._items.count(ordinal), deaths))
                elif ordinal in self._history.partial:
                    taken.partial.append(self._history.partial[ordinal])
                else:
                    taken.portions.append(Portion(ordinal, alone=True))
        taken.portions.extend(Portion(left.start, len(left)) for left in self._history.unfinished(start, end))
        return taken

    def _tell(self) -> None:
        alone = [
            str(ordinal)
            for ordinal in self._special
            if self._history.suspicion(ordinal) == _SUSPECT_DEATHS and not self._history.finished[ordinal]
        ]
        if alone:
            logger.warning(
                "mini-batches %s may be what this node died of %d times: each runs alone now, to tell which",
                ", ".join(alone),
                _SUSPECT_DEATHS,
            )


def _poison(ordinal: int, items: int, deaths: int) -> Line:
    message = f"it was running in {deaths} node processes that died, alone in the last; it is not tried again"
    error = {"type": "NodeLost", "message": message, "frame": None, "traceback": "", "log": ""}
    return Line(ordinal, FAILED, deaths, items, 0, 0, [], 0.0, 0.0, "", time.time(), error)
