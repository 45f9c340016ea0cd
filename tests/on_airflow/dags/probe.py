# SPDX-License-Identifier: Apache-2.0
"""The DAG that most tests run; what it does is said by conf and by the files in the run's folder."""

from __future__ import annotations

from airflow.sdk import DAG, task
from steps import ROOT, predict

from airflow_parallelrun import Dataset, PipelineParameter

with DAG("probe", schedule=None):

    @task
    def after(path: str) -> str:
        """Stand downstream of the step."""
        return path

    step = predict(
        "probe",
        inputs=[PipelineParameter("files", Dataset.File.from_files(f"{ROOT}/input")).as_mount()],
        node_count=PipelineParameter("nodes", 1),
        process_count_per_node=PipelineParameter("processes", 1),
        mini_batch_size=PipelineParameter("batch_size", 1),
        run_max_try=PipelineParameter("tries", 1),
        error_threshold=PipelineParameter("tolerated", 0),
    )
    after(step.output)
