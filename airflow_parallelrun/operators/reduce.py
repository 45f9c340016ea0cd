# SPDX-License-Identifier: Apache-2.0
"""The third task: decides what the job came to and publishes the output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_parallelrun.operators.outcome import airflow_outcome, engine_logging
from airflow_parallelrun.operators.split import PLAN_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

OUTPUT_KEY = "output"


class ReduceOperator(BaseOperator):
    """Judge a job and publish its output; use :class:`ParallelRunOperator`.

    Returns the job's result (counts, a bounded summary of errors) and pushes the output's path under the key
    ``output``.

    :param split_task_id: the task that made the plan
    """

    template_fields: Sequence[str] = ()
    ui_color = "#f4efe8"

    def __init__(self, *, split_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.split_task_id = split_task_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Seal what counts, judge it, publish it.

        :raises AirflowSkipException: when split was skipped
        :raises AirflowFailException: when split did not succeed, and when the job failed
        """
        from airflow_parallelrun.engine.plan import read_plan
        from airflow_parallelrun.engine.reduce import reduce

        run_dir = self._run_dir(context)
        with airflow_outcome():
            plan = read_plan(run_dir)
            with engine_logging(plan.config.logging_level):
                result = reduce(run_dir)
        output = result.output_file or plan.output
        context["ti"].xcom_push(key=OUTPUT_KEY, value=output)
        self.log.info("The job succeeded; output: %s", output or "none (output_action is summary_only)")
        summary: dict[str, Any] = result.to_dict()
        return summary

    def _run_dir(self, context: Context) -> str:
        """Find the plan; this task runs whatever became of split (``all_done``), which comes first."""
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[self.split_task_id], run_ids=[ti.run_id])
        state = states.get(ti.run_id, {}).get(self.split_task_id)
        if state == "skipped":
            raise AirflowSkipException(f"{self.split_task_id} was skipped")
        plan = ti.xcom_pull(task_ids=self.split_task_id, key=PLAN_KEY) if state == "success" else None
        if plan is None:
            problem = f"ended as {state}" if state != "success" else "left no plan"
            raise AirflowFailException(
                f"{self.split_task_id} {problem}, so there is nothing to reduce. See its log; when the cause "
                "is gone, clear it together with its downstream tasks."
            )
        return str(plan["run_dir"])
