# SPDX-License-Identifier: Apache-2.0
"""Starts worker processes: by fork from a process that has their libraries, or by exec."""

from __future__ import annotations

import logging
import os
import selectors
import time
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.forking import ForkServer, worth_importing
from airflow_parallelrun.engine.pool import Process, plan_environment
from airflow_parallelrun.worker import guardian

if TYPE_CHECKING:
    from airflow_parallelrun.engine.guarding import Guardian
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started
    from airflow_parallelrun.engine.workplace import Workplace

logger = logging.getLogger(__name__)


class Launcher:
    """What a node needs to start processes.

    :param plan: the plan
    :param started: the attempt
    :param place: the node's folders
    :param selector: of the dispatch thread; its events with this object are for :meth:`hear`
    :param keeper: the node's guardian
    """

    def __init__(
        self,
        plan: Plan,
        started: Started,
        place: Workplace,
        selector: selectors.BaseSelector,
        keeper: Guardian,
    ) -> None:
        self._plan = plan
        self._started = started
        self._place = place
        self._selector = selector
        self._keeper = keeper
        self._began = time.monotonic()
        self._forks: ForkServer | None = None
        self.count = 0

    def prepare(self) -> None:
        """Start a fork server if there is something to import; nobody waits for it here."""
        wanted = worth_importing(self._plan, self._place.code)
        if not wanted:
            return
        environment = {
            **plan_environment(self._plan, self._place.output),
            guardian.TAG_VARIABLE: f"{self._started.token}.f",
        }
        log = os.path.join(
            self._place.logs, "user", "stderr", str(self._started.attempt), "fork_server.stderr.txt"
        )
        try:
            self._forks = ForkServer(self._plan, wanted, self._place.code, environment, log)
        except OSError as error:
            logger.warning("the fork server cannot be started: %s; starting processes by exec", error)
            return
        self._keeper.watch(self._forks.pid)
        self._selector.register(self._forks, selectors.EVENT_READ, self)

    @property
    def is_preparing(self) -> bool:
        """Whether it is worth waiting with the first processes: their libraries are just being imported."""
        if self._forks is None or self._forks.ready:
            return False
        if time.monotonic() - self._began > self._plan.config.init_timeout_s:
            self._give_up("has not imported its modules within init_timeout")
            return False
        return True

    def hear(self) -> None:
        """Take what the fork server says, or that it is gone."""
        if self._forks is not None and not self._forks.hear():
            self._give_up("is gone")

    def start(self) -> Process:
        """Start a process."""
        arguments = self._plan, self._started, self.count, self._place
        if self._forks is not None:
            process = Process(*arguments, self._forks)
            if self._forks.failed:
                self._give_up("does not answer")
        else:
            process = Process(*arguments)
        self.count += 1
        return process

    def close(self) -> None:
        """End the fork server; its workers live on."""
        if self._forks is not None:
            self._selector.unregister(self._forks)
            self._forks.close()
            self._keeper.release(self._forks.pid)  # the number may be another session's from now on
            self._forks = None

    def _give_up(self, why: str) -> None:
        logger.warning("the fork server %s; starting processes by exec", why)
        self.close()
