# SPDX-License-Identifier: Apache-2.0
"""The step in the places where its tasks' states matter to others."""

from __future__ import annotations

from airflow.sdk import DAG, task
from steps import ROOT, predict

from airflow_parallelrun import Dataset


@task
def after() -> None:
    """Stand downstream of the step."""


with DAG("upstream_fails", schedule=None):

    @task
    def before() -> None:
        """Fail."""
        raise RuntimeError("no data today")

    before() >> predict("upstream_fails") >> after()

with DAG("branch_not_taken", schedule=None):

    @task.branch
    def choose() -> str:
        """Take the other way."""
        return "other"

    @task
    def other() -> None:
        """Be the other way."""

    choose() >> [(step := predict("branch_not_taken")), other()]
    step >> after()

with DAG("empty_input", schedule=None):
    empty = Dataset.File.from_files(f"{ROOT}/input/*.none").as_mount()
    predict("empty_input", inputs=[empty]) >> after()

with DAG("no_retries", schedule=None):
    predict("no_retries", operator={"retries": 0}, node_count=2, error_threshold=1, run_max_try=1) >> after()

with DAG("summary", schedule=None):
    predict("summary", output_action="summary_only", logging_level="DEBUG")
