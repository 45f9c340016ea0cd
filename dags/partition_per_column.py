# SPDX-License-Identifier: Apache-2.0
"""Run a script once for each store and brand of a table.

The first task copies the table into folders `Store=…/Brand=…`, as Hive and Spark have them; the second finds
the keys there and makes a mini-batch of each combination that exists.

`make demo` makes the table. The result is in `revenues/<run id>/revenue_outputs.txt` beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_parallelrun import ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator

DATA = os.environ.get("PARALLELRUN_DEMO_DATA") or str(Path(__file__).resolve().parent.parent / ".demo")
PARTITIONED = f"{DATA}/partitioned_sales/{{{{ run_id }}}}"
KEYS = ["Store", "Brand"]


@task(task_id="partition")
def partition_sales(target: str) -> None:
    """Copy the table into folders by store and brand."""
    Dataset.Tabular.from_delimited_files(f"{DATA}/sales/sales.csv").partition_by(KEYS, target)


with DAG(
    "partition_per_column",
    description="One mini-batch for each store and brand",
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["parallelrun", "demo"],
):
    summarize = ParallelRunOperator(
        task_id="summarize-revenue",
        parallel_run_config=ParallelRunConfig(
            environment=Environment(),
            source_directory="partitions",
            entry_script="total_income.py",
            partition_keys=KEYS,
            error_threshold=5,
            output_action="append_row",
            append_row_file_name="revenue_outputs.txt",
            compute_target=ComputeTarget(),
            node_count=2,
            run_invocation_timeout=600,
        ),
        inputs=[Dataset.Tabular.from_parquet_files(PARTITIONED).as_named_input("partitioned_sales")],
        output=f"{DATA}/revenues/{{{{ run_id }}}}",
    )
    partition_sales(PARTITIONED) >> summarize
