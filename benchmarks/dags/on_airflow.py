# SPDX-License-Identifier: Apache-2.0
"""The files workload with this provider."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_parallelrun import (
    ComputeTarget,
    Dataset,
    Environment,
    ParallelRunConfig,
    ParallelRunOperator,
    PipelineParameter,
)

with DAG("on_airflow", schedule=None):
    config = ParallelRunConfig(
        environment=Environment(),
        source_directory="../scripts",
        entry_script="mlp.py",
        error_threshold=0,
        output_action="append_row",
        compute_target=ComputeTarget(),
        mini_batch_size=PipelineParameter("mini_batch_size", "100"),
        node_count=1,
        process_count_per_node=2,
        environment_variables={"BENCHMARK_STAMPS": os.environ["BENCHMARK_STAMPS"]},
    )
    ParallelRunOperator(
        task_id="predict",
        parallel_run_config=config,
        inputs=[PipelineParameter("folder", Dataset.File.from_files("/")).as_mount()],
        output=f"{os.environ['BENCHMARK_OUT']}/output",
    )
