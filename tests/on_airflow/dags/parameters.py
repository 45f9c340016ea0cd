# SPDX-License-Identifier: Apache-2.0
"""Pipeline parameters: one for everything that may be one, without defaults, on a schedule, in two steps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup
from steps import ROOT, predict

from airflow_parallelrun import Dataset, PipelineParameter

FILES = Dataset.File.from_files(f"{ROOT}/input")


def every_parameter() -> dict[str, Any]:
    """Return what a step can leave to whoever triggers it."""
    return {
        "entry_script": "witness.py",
        "inputs": [PipelineParameter("files", FILES).as_mount()],
        "arguments": [
            *("--label", PipelineParameter("label", "digit")),
            *("--threshold", PipelineParameter("threshold", 0.5)),
            *("--top", PipelineParameter("top", 3)),
            *("--strict", PipelineParameter("strict", False)),
        ],
        "mini_batch_size": PipelineParameter("batch_size", "3"),
        "node_count": PipelineParameter("nodes", 1),
        "process_count_per_node": PipelineParameter("processes", None),
        "run_invocation_timeout": PipelineParameter("seconds", 60),
        "run_max_try": PipelineParameter("tries", 3),
        "error_threshold": PipelineParameter("tolerated", 0),
        "allowed_failed_count": PipelineParameter("failed_batches", None),
        "allowed_failed_percent": PipelineParameter("failed_percent", 12.5),
        "logging_level": PipelineParameter("level", "info"),
    }


with DAG("parameters", schedule=None, params={"date": Param(None, type=["string", "null"])}):
    predict("parameters", **every_parameter())

# Never started: for what is decided when a run is triggered, and for the form.
with DAG("paused_parameters", schedule=None, is_paused_upon_creation=True, description="Which digit is it?"):
    predict("paused_parameters", **every_parameter())

with DAG("required_parameters", schedule=None):
    predict(
        "required_parameters",
        entry_script="witness.py",
        inputs=[PipelineParameter("files").as_mount()],
        arguments=["--label", PipelineParameter("label"), "--threshold", PipelineParameter("threshold")],
        node_count=PipelineParameter("nodes"),
        mini_batch_size=PipelineParameter("batch_size"),
        logging_level=PipelineParameter("level"),
    )

# One run of its own when it is unpaused, and as many as a backfill asks for.
with DAG(
    "scheduled_parameters",
    schedule="@yearly",
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
):
    predict("scheduled_parameters", **every_parameter())

with DAG("two_steps", schedule=None):
    shared = {
        "entry_script": "witness.py",
        "inputs": [PipelineParameter("files", FILES).as_mount()],
        "mini_batch_size": PipelineParameter("batch_size", 4),
    }
    with TaskGroup("first"):
        first = predict("two_steps/first", **shared)
    with TaskGroup("second"):
        second = predict("two_steps/second", node_count=PipelineParameter("nodes", 1), **shared)
    first >> second
