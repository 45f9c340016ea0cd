# SPDX-License-Identifier: Apache-2.0
"""A step whose results others look for: by links, as an asset, and in OpenLineage's events."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, TaskGroup
from steps import predict

from airflow_parallelrun import PipelineParameter

with DAG("links", schedule=None), TaskGroup("night"):
    predict(
        "links",
        node_count=2,
        error_threshold=PipelineParameter("tolerated", 1),
        run_max_try=1,
        operator={"outlets": [Asset("rows")]},
    )
