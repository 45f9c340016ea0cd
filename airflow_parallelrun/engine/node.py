# SPDX-License-Identifier: Apache-2.0
"""A node: one process that runs mini-batches of a run on worker processes of its own."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.amendment import amended
from airflow_parallelrun.engine.background_log import background_log
from airflow_parallelrun.engine.periodic import Periodic
from airflow_parallelrun.engine.plan import node_log, read_plan
from airflow_parallelrun.engine.progress import Progress
from airflow_parallelrun.engine.rounds import end_attempt, start_attempt
from airflow_parallelrun.engine.session import Session
from airflow_parallelrun.engine.wakeup import Wakeup
from airflow_parallelrun.engine.workplace import LogFolder
from airflow_parallelrun.exceptions import InterruptedRunError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started

logger = logging.getLogger(__name__)

__all__ = ["Node", "NodeResult", "Progress"]


@dataclass(frozen=True)
class NodeResult:
    """How a node ended.

    :param outcome: ``finished``, or ``aborted`` when a threshold was exceeded somewhere
    :param message: in words
    :param progress: its last progress
    """

    outcome: str
    message: str
    progress: Progress


class Node:
    """One node of a run.

    :param run_dir: the run directory
    :param index: the node's index, from 0
    :param on_progress: called every ``progress_interval_s`` and at the end, from a thread of its own
    :param progress_interval_s: seconds
    """

    def __init__(
        self,
        run_dir: str,
        index: int,
        on_progress: Callable[[Progress], None] | None = None,
        progress_interval_s: float = 2.0,
    ) -> None:
        self._run_dir = run_dir
        self._index = index
        self._on_progress = on_progress
        self._progress_interval_s = progress_interval_s
        self._wakeup = Wakeup()

    def request_stop(self, reason: str = "was asked to stop") -> None:
        """Have :meth:`run` commit what is complete and raise; may be called from a signal handler.

        :param reason: for the error's message, where it goes on from "node 0 …"
        """
        self._wakeup.request_stop(reason)

    def run(self) -> NodeResult:
        """Work until nothing is left to claim; once, and from the main thread, with which processes die.

        :raises EntryScriptInitError: when no process gets through init()
        :raises EntryScriptContractError: when the script cannot be used
        :raises InterruptedRunError: when it was asked to stop, or a newer attempt of this node has started
        :raises StorageError: when the run directory cannot be written
        """
        plan = read_plan(self._run_dir)
        with LogFolder(plan, lambda: self._wakeup.stop_requested) as logs, background_log() as log:
            started = start_attempt(plan.store, self._index)
            with _failing(plan, started):
                logs.open(started.token)
                log.name(node_log(logs.root, str(started.attempt)))
                session = Session(amended(plan, started.round), started, self._wakeup, logs.root)
            return self._work(session)

    def _work(self, session: Session) -> NodeResult:
        reporter = None
        if report := self._on_progress:
            reporter = Periodic("progress", lambda: report(session.progress()), self._progress_interval_s)
        try:
            session.work()
        except BaseException as error:
            session.close("interrupted" if isinstance(error, InterruptedRunError) else "failed", str(error))
            raise
        else:
            session.close(session.outcome, session.message)
        finally:
            self._wakeup.close()
            if reporter:
                reporter.close()
        return NodeResult(session.outcome, session.message, session.progress())


@contextlib.contextmanager
def _failing(plan: Plan, started: Started) -> Iterator[None]:
    """Write down why an attempt could not begin."""
    try:
        yield
    except Exception as error:
        attempt = started.attempt
        logger.info("node %s failed: %s", attempt, error)
        nothing = Progress(attempt.node, attempt.k, "failed", 0, 0, 0, 0, 0, 0.0, 0, None)
        # Where that cannot be written either, the error is the one to tell.
        with contextlib.suppress(StorageError):
            end_attempt(plan.store, started, str(error), nothing, run_seconds=0.0, processes_started=0)
        raise
