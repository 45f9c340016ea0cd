# SPDX-License-Identifier: Apache-2.0
"""Steps whose runs know of earlier ones: what was done is not done again."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task
from steps import ROOT

from airflow_parallelrun import ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator

# For the tasks of these DAGs alone, each of which reads this file in its process; those of others have their
# run directories beside their output.
os.environ["AIRFLOW__PARALLELRUN__STORAGE_ROOT"] = f"{ROOT}/storage"

CONFIG = ParallelRunConfig(
    environment=Environment(),
    source_directory="scripts",
    entry_script="names.py",
    error_threshold=0,
    output_action="append_row",
    compute_target=ComputeTarget(),
    node_count=1,
    process_count_per_node=1,
    mini_batch_size=1,
)


@task
def after(path: str) -> str:
    """Stand downstream of the step."""
    return path


with DAG("reusing", schedule=None):
    files = Dataset.File.from_files(f"{ROOT}/reused").as_mount()
    reusing = ParallelRunOperator(task_id="predict", parallel_run_config=CONFIG, inputs=[files])
    after(reusing.output)

with DAG("only_new", schedule=None):
    growing = Dataset.File.from_files(f"{ROOT}/growing", only_new=True).as_mount()
    only_new = ParallelRunOperator(task_id="predict", parallel_run_config=CONFIG, inputs=[growing])
    after(only_new.output)
