# SPDX-License-Identifier: Apache-2.0
"""The third task: decides what the job came to and publishes the output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_parallelrun.exceptions import OutputError
from airflow_parallelrun.hooks.filesystems import connected
from airflow_parallelrun.operators.clearing import calls, what_to_do
from airflow_parallelrun.operators.lineage import job_lineage
from airflow_parallelrun.operators.links import (
    ERROR_REPORT_KEY,
    OUTPUT_KEY,
    PLAN_KEY,
    RESULT_KEY,
    EarlierRunLink,
    ErrorReportLink,
    JobResultLink,
    OutputLink,
)
from airflow_parallelrun.operators.outcome import airflow_outcome, engine_logging
from airflow_parallelrun.operators.redriving import REDRIVE_OF
from airflow_parallelrun.operators.reusing import reused_result
from airflow_parallelrun.operators.summary import asset_extra, error_report, summary
from airflow_parallelrun.rules import RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult
    from airflow_parallelrun.exceptions import ParallelRunError
    from airflow_parallelrun.operators.lineage import Lineage


class ReduceOperator(BaseOperator):
    """Judge a job and publish its output; use :class:`ParallelRunOperator`.

    Returns the job's result (counts, a bounded summary of errors) and pushes the output's path under the key
    ``output`` and, where something failed, a short ``error_report``. A failed job leaves all but the output.

    :param split_task_id: the task that made the plan
    """

    template_fields: Sequence[str] = ()
    operator_extra_links: Collection[BaseOperatorLink] = (
        OutputLink(),
        ErrorReportLink(),
        JobResultLink(),
        EarlierRunLink(),
    )
    ui_color = "#f4efe8"

    def __init__(self, *, split_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.split_task_id = split_task_id
        self.results: dict[str, str | None] = {}
        self._plan: Plan | None = None
        self._result: JobResult | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Seal what counts, judge it, publish it.

        :raises AirflowSkipException: when split was skipped
        :raises AirflowFailException: when split did not succeed, and when the job failed
        """
        pointers = self._pointers(context)
        earlier = self.results[EarlierRunLink.name] = pointers["reused_from"]
        with airflow_outcome(), connected([pointers.get("result") or pointers["run_dir"]]):
            result = reused_result(pointers, self.split_task_id)
            if result is None:
                told = summary(result := self._settled(pointers, context), redrive_of=earlier)
            else:
                self.log.info("Run %s has come to the same, and its result is taken over", earlier)
                self._show(result, context["ti"])
                told = summary(result, reused_from=earlier)
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(asset_extra(result))
        return told

    def get_openlineage_facets_on_start(self) -> Lineage:
        """Return nothing yet: it is in the plan, which is read when this task is under way."""
        return job_lineage(None, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Lineage:
        """Return the inputs, the output, and the counts."""
        return job_lineage(self._plan, self._result)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Lineage:
        """Return the same; a failed job has no output."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _settled(self, pointers: dict[str, Any], context: Context) -> JobResult:
        """Come to a verdict, and return the result of a success."""
        from airflow_parallelrun.engine import urls
        from airflow_parallelrun.engine.plan import read_plan
        from airflow_parallelrun.engine.reduce import settle

        ti, run_dir, redrive_of = context["ti"], str(pointers["run_dir"]), pointers["reused_from"]
        if redrive_of:
            self.log.info("A redrive of run %s: plan and output are that run's", redrive_of)
        plan = self._plan = read_plan(run_dir)
        with engine_logging(plan.config.logging_level), connected(urls.of_plan(plan)):
            try:
                result, failure = settle(run_dir)
            except OutputError as error:
                raise self._failed(error, context) from error
        self._show(result, ti)
        if failure is not None:
            # Airflow keeps no return value of a task that fails.
            ti.xcom_push(key=RESULT_KEY, value=summary(result, redrive_of))
            raise self._failed(failure, context) from failure
        return result

    def _failed(self, failure: ParallelRunError, context: Context) -> AirflowFailException:
        """Say what to do beside what happened: whoever was paged may know neither this step nor its tasks."""
        return AirflowFailException(f"{failure}\n{what_to_do(failure, self.task_id, context)}")

    def _show(self, result: JobResult, ti: Any) -> None:
        """Leave the paths where people and other tasks find them: in XCom and behind the links."""
        self._result = result
        self.results[JobResultLink.name] = f"{result.output}/{RESULT_FILE}" if result.output else None
        if result.error_groups:
            report = error_report(result)
            self.log.warning("%s", report)
            ti.xcom_push(key=ERROR_REPORT_KEY, value=report)
            self.results[ErrorReportLink.name] = result.failed_items_file
        if result.verdict != "failed":
            output = result.output_file or result.output
            ti.xcom_push(key=OUTPUT_KEY, value=output)
            if output:
                self.results[OutputLink.name] = output
            self.log.info(
                "The job %s; output: %s", result.verdict, output or "none (output_action is summary_only)"
            )
            if result.error_groups:
                conf = json.dumps({REDRIVE_OF: ti.run_id})
                self.log.info(
                    "To run again what failed or came back short, trigger the DAG with the conf %s", conf
                )

    def _pointers(self, context: Context) -> dict[str, Any]:
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
                f"is gone, clear it with its downstream tasks.\n{calls(self.split_task_id, context)}"
            )
        return dict(plan)
