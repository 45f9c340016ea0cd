# SPDX-License-Identifier: Apache-2.0
"""A step whose input, output and run directory are in a store; the conf says where."""

from __future__ import annotations

from airflow.sdk import DAG, Param
from steps import predict

from airflow_parallelrun import Dataset, PipelineParameter

with DAG("stores", schedule=None, params={"store": Param("abfs://azurite@nowhere", type="string")}):
    files = PipelineParameter("files", Dataset.File.from_files("abfs://azurite@nowhere/input"))
    predict(
        "stores",
        inputs=[files.as_mount()],
        output="{{ params.store }}/out/{{ run_id }}",
        node_count=2,
        process_count_per_node=2,
    )
