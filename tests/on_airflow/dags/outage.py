# SPDX-License-Identifier: Apache-2.0
"""The DAG that runs while the API server is away: a try that cannot start uses up a retry."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG
from steps import ROOT, predict

from airflow_parallelrun import Dataset

with DAG("outage", schedule=None):
    predict(
        "outage",
        inputs=[Dataset.File.from_files(f"{ROOT}/many").as_mount()],
        node_count=2,
        process_count_per_node=2,
        operator={"retries": 20, "retry_delay": timedelta(seconds=5)},
    )
