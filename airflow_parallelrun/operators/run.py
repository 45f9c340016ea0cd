# SPDX-License-Identifier: Apache-2.0
"""The second task, mapped over nodes: runs the entry script over its share of the mini-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_parallelrun.exceptions import InterruptedRunError
from airflow_parallelrun.operators.outcome import MAX_TITLE_CHARS, engine_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airflow_parallelrun.engine.node import Node, NodeResult
    from airflow_parallelrun.engine.progress import Progress

TITLE_TEMPLATE = "{{ task.title }}"
PROGRESS_KEY = "progress"


class NodeOperator(BaseOperator):
    """Run one node of a job; use :class:`ParallelRunOperator`, which makes the plan and judges the result.

    :param node: what split returned for this node: ``{"node": index, "run_dir": path}``
    """

    template_fields: Sequence[str] = ("node",)
    ui_color = "#e8f4ea"

    def __init__(self, *, node: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.node = node
        self.title = ""
        self._engine_node: Node | None = None
        self._stop_requested = False

    def execute(self, context: Context) -> None:
        """Work until no mini-batch is left, the job is aborted, or somebody stops the task."""
        from airflow_parallelrun.engine.plan import read_plan

        index, run_dir = int(self.node["node"]), str(self.node["run_dir"])
        self.title = f"node {index}"
        # Errors pass as they are: the retry policy, ours or the user's, decides by their class.
        with engine_logging(read_plan(run_dir).config.logging_level):
            result = self._run(run_dir, index, context)
        self.title = _title(index, result)

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
            store.set(PROGRESS_KEY, progress.to_dict())

        node = Node(run_dir, index, on_progress=show)
        self._engine_node = node
        if self._stop_requested:
            # The request came before there was a node to take it.
            node.request_stop()
        result = node.run()
        if self._stop_requested:
            progress = result.progress
            raise InterruptedRunError(
                index,
                "was asked to stop and has stopped",
                progress.mini_batches_done,
                progress.mini_batches_total,
            )
        return result


def _title(index: int, result: NodeResult) -> str:
    """Say what the node did, as the name of the mapped task instance."""
    progress = result.progress
    parts = [f"node {index}", _count(progress.mini_batches_done)]
    if progress.mini_batches_failed:
        parts.append(f"{progress.mini_batches_failed} failed")
    if result.outcome == "aborted":
        parts.append(f"aborted: {' '.join(result.message.split())}")
    title = " · ".join(parts)
    return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1]}…"


def _count(mini_batches: int) -> str:
    return f"{mini_batches} mini-batch" + ("" if mini_batches == 1 else "es")
