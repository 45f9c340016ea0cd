# SPDX-License-Identifier: Apache-2.0
"""Run a script once for each user and genre of a folder of sound files.

The paths say what the files are, `{user}/{season}/{genres}.wav`, and the keys `user` and `genres` make the
mini-batches: one for each combination that exists, whatever the number of its files.

`make demo` makes the files. The result is in `file_sizes/<run id>/file_size_outputs.txt` beside them.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG

from airflow_parallelrun import ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator

DATA = os.environ.get("PARALLELRUN_DEMO_DATA") or str(Path(__file__).resolve().parent.parent / ".demo")

with DAG(
    "partition_per_folder",
    description="One mini-batch for each user and genre",
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["parallelrun", "demo"],
):
    sounds = Dataset.File.from_files(f"{DATA}/sounds", partition_format="{user}/{season}/{genres}.wav")

    ParallelRunOperator(
        task_id="summarize-file-size",
        parallel_run_config=ParallelRunConfig(
            environment=Environment(),
            source_directory="partitions",
            entry_script="total_file_size.py",
            partition_keys=["user", "genres"],
            error_threshold=5,
            output_action="append_row",
            append_row_file_name="file_size_outputs.txt",
            compute_target=ComputeTarget(),
            node_count=2,
            run_invocation_timeout=600,
        ),
        inputs=[sounds.as_named_input("partitioned_files")],
        output=f"{DATA}/file_sizes/{{{{ run_id }}}}",
    )
