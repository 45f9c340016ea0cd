# SPDX-License-Identifier: Apache-2.0
"""Whether a round should be stopped, as a node judges it from what it knows of all nodes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import budget
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.stall import StallWatch

if TYPE_CHECKING:
    from airflow_parallelrun.engine.control import Sighting
    from airflow_parallelrun.engine.dispatcher import Dispatcher
    from airflow_parallelrun.engine.plan import Plan


class Judge:
    """A node's judge.

    :param plan: the plan
    :param dispatcher: the node's mini-batches and processes
    """

    def __init__(self, plan: Plan, dispatcher: Dispatcher) -> None:
        self._plan = plan
        self._dispatcher = dispatcher
        self._stall = StallWatch(plan)
        self._began = time.monotonic()

    def reasons(self, own: Failures, seen: Sighting, finished: int, staged: int) -> list[str]:
        """Return why the round should be stopped; nothing as long as it may go on.

        :param own: what has failed here
        :param seen: what the others have shown
        :param finished: mini-batches that were finished here
        :param staged: those whose files are still being copied
        """
        config, dispatcher = self._plan.config, self._dispatcher
        others = seen.others
        failures = Failures(own.items + others.items, own.mini_batches + others.mini_batches)
        reasons = budget.breaches(config, failures)
        if mine := dispatcher.init_failures:
            reasons += budget.init_breaches(
                mine + seen.init_failures,
                self._plan.node_count * config.processes_per_node,
                time.monotonic() - self._began,
                dispatcher.last_failure,
            )
        outstanding = dispatcher.outstanding + staged
        return reasons + self._stall.reasons(finished + seen.done, dispatcher.processes, outstanding, staged)
