# SPDX-License-Identifier: Apache-2.0
"""One step that all DAGs here use."""

from __future__ import annotations

import os
from typing import Any

from airflow_parallelrun import ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator

ROOT = os.environ["PARALLELRUN_TESTS_ROOT"]


def predict(
    dag_id: str,
    *,
    inputs: list[Any] | None = None,
    arguments: list[Any] | None = None,
    output: str | None = None,
    operator: dict[str, Any] | None = None,
    **config: Any,
) -> ParallelRunOperator:
    """Make the step ``predict``: ``scripts/probe.py`` over the files of ``<root>/input``.

    :param output: default a folder of the DAG run's own below ``<root>/out``
    :param operator: further arguments of ParallelRunOperator
    :param config: what differs from the values here
    """
    values: dict[str, Any] = {
        "environment": Environment(),
        "source_directory": "scripts",
        "entry_script": "probe.py",
        "error_threshold": 0,
        "output_action": "append_row",
        "append_row_file_name": "rows.txt",
        "compute_target": ComputeTarget(),
        "node_count": 1,
        "process_count_per_node": 1,
        "mini_batch_size": 1,
        "run_invocation_timeout": 600,
    }
    return ParallelRunOperator(
        task_id="predict",
        parallel_run_config=ParallelRunConfig(**{**values, **config}),
        inputs=inputs or [Dataset.File.from_files(f"{ROOT}/input").as_mount()],
        output=output or f"{ROOT}/out/{dag_id}/{{{{ run_id }}}}",
        arguments=["--folder", f"{ROOT}/runs/{dag_id}/{{{{ run_id }}}}", *(arguments or [])],
        **(operator or {}),
    )
