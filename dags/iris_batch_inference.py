# SPDX-License-Identifier: Apache-2.0
"""Say which iris each row of a table is of, a kilobyte of it at a time.

Reads a folder of CSV files as one table. The entry script gets mini-batches as pandas DataFrames, and returns
DataFrames; their rows are in `iris_outputs.txt`, with spaces between the fields and no header.

Press *Trigger* to run it on other tables (`iris_param`) or with larger mini-batches (`size_param`: `1MB`, or
`50rows`).

`make demo` makes the table and the model; both lie in `.demo` beside this folder, or where the environment
variable `PARALLELRUN_DEMO_DATA` says. The result is in `iris_inferences/<run id>` there.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG

from airflow_parallelrun import (
    ComputeTarget,
    Dataset,
    Environment,
    ParallelRunConfig,
    ParallelRunOperator,
    PipelineParameter,
)

DATA = os.environ.get("PARALLELRUN_DEMO_DATA") or str(Path(__file__).resolve().parent.parent / ".demo")

with DAG(
    "iris_batch_inference",
    description="Which iris is each row of?",
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["parallelrun", "demo"],
):
    table = PipelineParameter(
        "iris_param", default_value=Dataset.Tabular.from_delimited_files(f"{DATA}/iris")
    )

    ParallelRunOperator(
        task_id="example-iris",
        parallel_run_config=ParallelRunConfig(
            environment=Environment(),
            source_directory="iris",
            entry_script="iris_score.py",
            mini_batch_size=PipelineParameter("size_param", default_value="1KB"),
            error_threshold=5,
            output_action="append_row",
            append_row_file_name="iris_outputs.txt",
            compute_target=ComputeTarget(),
            node_count=2,
            run_invocation_timeout=600,
        ),
        inputs=[table.as_named_input("iris_data")],
        arguments=["--model_name", "iris-prs"],
        output=f"{DATA}/iris_inferences/{{{{ run_id }}}}",
    )
