# SPDX-License-Identifier: Apache-2.0
"""A node: one process that runs mini-batches of a run on worker processes of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.amendment import amended
from airflow_parallelrun.engine.background_log import background_log
from airflow_parallelrun.engine.periodic import Periodic
from airflow_parallelrun.engine.plan import node_log, read_plan
from airflow_parallelrun.engine.progress import Progress
from airflow_parallelrun.engine.rounds import start_attempt
from airflow_parallelrun.engine.session import Session
from airflow_parallelrun.engine.wakeup import Wakeup
from airflow_parallelrun.engine.workplace import LogFolder
from airflow_parallelrun.exceptions import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Started

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
            logs.open(started.token)
            log.name(node_log(logs.root, str(started.attempt)))
            return self._run(plan, started, logs.root)

    def _run(self, plan: Plan, started: Started, logs: str) -> NodeResult:
        session = Session(amended(plan, started.round), started, self._wakeup, logs)
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
