# SPDX-License-Identifier: Apache-2.0
"""The second task, mapped over nodes: runs the entry script over its share of the mini-batches."""

from __future__ import annotations

import os
import select
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_parallelrun.exceptions import InterruptedRunError
from airflow_parallelrun.hooks.connections import provided
from airflow_parallelrun.hooks.filesystems import connected
from airflow_parallelrun.operators.clearing import calls, ended_before, sibling
from airflow_parallelrun.operators.links import ErrorReportLink, JobResultLink
from airflow_parallelrun.operators.outcome import MAX_TITLE_CHARS, engine_logging

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from airflow_parallelrun.engine.node import Node, NodeResult
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.progress import Progress

TITLE_TEMPLATE = "{{ task.title }}"
PROGRESS_KEY = "progress"
_STDIN = 0


class NodeOperator(BaseOperator):
    """Run one node of a job; use :class:`ParallelRunOperator`, which makes the plan and judges the result.

    :param node: what split returned for this node: ``{"node": index, "run_dir": path}``
    """

    template_fields: Sequence[str] = ("node",)
    operator_extra_links: Collection[BaseOperatorLink] = (ErrorReportLink(), JobResultLink())
    ui_color = "#e8f4ea"

    def __init__(self, *, node: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.node = node
        self._outcome = ""
        self._progress: Progress | None = None
        self._engine_node: Node | None = None
        self._stop_requested = False

    def execute(self, context: Context) -> None:
        """Work until no mini-batch is left, the job is aborted, or somebody stops the task."""
        from airflow_parallelrun.engine import urls

        index, run_dir = int(self.node["node"]), str(self.node["run_dir"])
        # Errors pass as they are: the retry policy, ours or the user's, decides by their class.
        try:
            with ExitStack() as stack:
                stack.enter_context(connected([run_dir]))
                plan = _plan(run_dir)
                databases = [source["connection"] for source in plan.sources if "connection" in source]
                stack.enter_context(engine_logging(plan.config.logging_level))
                stack.enter_context(provided(databases))
                stack.enter_context(connected(urls.of_plan(plan)))
                result = self._run(run_dir, index, context)
        except InterruptedRunError:
            self._outcome = "stopped"
            raise
        except Exception as error:
            self._outcome = f"failed: {(str(error) or type(error).__name__).splitlines()[0]}"
            raise
        if result.outcome == "aborted":
            self._outcome = f"aborted: {result.message}"
        reduce_id = sibling(self.task_id, "reduce")
        if ended_before([reduce_id], context):
            self.log.warning(
                "%s has not been cleared: verdict and output are still those of before. For new ones, clear "
                "it with its downstream tasks.\n%s",
                reduce_id,
                calls(reduce_id, context),
            )

    @property
    def title(self) -> str:
        """What the node does or did, as the name of the mapped task instance.

        Airflow reads it before ``execute``, and again when that has returned or raised.
        """
        parts = [f"node {self.node['node']}"]
        if self._progress:
            parts.append(_count(self._progress.mini_batches_done))
            if self._progress.mini_batches_failed:
                parts.append(f"{self._progress.mini_batches_failed} failed")
        if self._outcome:
            parts.append(" ".join(self._outcome.split()))
        title = " · ".join(parts)
        return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…"

    @property
    def results(self) -> dict[str, str | None]:
        """What the links lead to: all of it is reduce's."""
        failed = self._progress is not None and self._progress.mini_batches_failed
        return dict.fromkeys((JobResultLink.name, *([ErrorReportLink.name] if failed else [])))

    def on_kill(self) -> None:
        """Ask the node to stop.

        Airflow calls this inside its SIGTERM handler and lets ``execute`` go on, so nothing may be done here
        but to pass the request on; ``execute`` then raises: a task that returns is recorded as a success.
        """
        self._stop_requested = True
        if self._engine_node is not None:
            self._engine_node.request_stop()

    def _run(self, run_dir: str, index: int, context: Context) -> NodeResult:
        from airflow_parallelrun.engine.node import Node

        store = context["task_state_store"]

        def show(progress: Progress) -> None:
            # In the node's progress thread: Airflow's channel to its supervisor is guarded by a lock.
            self._progress = progress
            if _supervisor_is_gone():
                node.request_stop("has lost its supervisor")
                return
            store.set(PROGRESS_KEY, progress.to_dict())

        node = Node(run_dir, index, on_progress=show)
        self._engine_node = node
        if self._stop_requested:
            # The request came before there was a node to take it.
            node.request_stop()
        result = node.run()
        self._progress = result.progress
        if self._stop_requested:
            progress = result.progress
            raise InterruptedRunError(
                index,
                "was asked to stop and has stopped",
                progress.mini_batches_done,
                progress.mini_batches_total,
            )
        return result


def _plan(run_dir: str) -> Plan:
    from airflow_parallelrun.engine.amendment import amended
    from airflow_parallelrun.engine.plan import read_plan
    from airflow_parallelrun.engine.rounds import sealed_rounds

    plan = read_plan(run_dir)
    return amended(plan, sealed_rounds(plan.store))


def _supervisor_is_gone() -> bool:
    """Tell whether Airflow has lost this task: nobody would hear how it ends, and nobody can stop it.

    A task's stdin is a socket, and its supervisor holds the other end. Without a supervisor (``dag.test()``)
    it is something else.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(_STDIN).st_mode):
            return False
    except OSError:  # closed
        return False
    poll = select.poll()
    poll.register(_STDIN, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _count(mini_batches: int) -> str:
    return f"{mini_batches} mini-batch" + ("" if mini_batches == 1 else "es")
