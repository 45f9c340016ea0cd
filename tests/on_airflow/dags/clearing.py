# SPDX-License-Identifier: Apache-2.0
"""A step that fails at the first error, so that there is something to clear."""

from __future__ import annotations

from airflow.sdk import DAG, task
from steps import ROOT, predict

from airflow_parallelrun import Dataset, PipelineParameter

with DAG("clearing", schedule=None):

    @task
    def after() -> None:
        """Stand downstream of the step."""

    files = PipelineParameter("files", Dataset.File.from_files(f"{ROOT}/input"))
    inputs = [files.as_mount()]
    predict("clearing", inputs=inputs, node_count=2, run_max_try=1, operator={"retries": 0}) >> after()
