# SPDX-License-Identifier: Apache-2.0
"""Label handwritten digits, many at a time.

Reads a folder of images, has a TensorFlow model say which digit is on each, and leaves one file with a
line per image. Two nodes share the images, each with its own worker processes.

Press *Trigger* to run it on other images (`mnist_param`: a file, a folder, a glob, or a list of them), with
another mini-batch size (`batch_size_param`) or another number of processes per node (`process_count_param`),
or to have the result elsewhere (`results_param`). Images and results may be in a store, too:
`abfs://connection@container/folder`.

`make demo` makes the images and the model; both lie in `.demo` beside this folder, or where the environment
variable `PARALLELRUN_DEMO_DATA` says. The result is in `inferences/<run id>/mnist_outputs.txt` there.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, Param

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
    "mnist_batch_inference",
    description="Which digit is on each image?",
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["parallelrun", "demo"],
    params={
        "results_param": Param(
            f"{DATA}/inferences",
            type="string",
            title="results_param",
            description="A folder, or a URL in a store, in which each run gets a folder of its own.",
        )
    },
):
    images = PipelineParameter("mnist_param", default_value=Dataset.File.from_files(f"{DATA}/mnist"))

    ParallelRunOperator(
        task_id="predict-digits-mnist",
        parallel_run_config=ParallelRunConfig(
            environment=Environment(),
            source_directory="mnist",
            entry_script="digit_identification.py",
            mini_batch_size=PipelineParameter("batch_size_param", default_value="5"),
            error_threshold=10,
            output_action="append_row",
            append_row_file_name="mnist_outputs.txt",
            compute_target=ComputeTarget(),
            process_count_per_node=PipelineParameter("process_count_param", default_value=2),
            node_count=2,
        ),
        inputs=[images.as_mount()],
        output="{{ params.results_param }}/{{ run_id }}",
    )
