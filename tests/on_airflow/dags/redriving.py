# SPDX-License-Identifier: Apache-2.0
"""A step that tolerates every failure, so that there is something to redrive; its code can be changed."""

from __future__ import annotations

from airflow.sdk import DAG, task
from steps import ROOT, predict

with DAG("redriving", schedule=None):

    @task
    def after() -> None:
        """Stand downstream of the step."""

    settings = {"source_directory": f"{ROOT}/code", "error_threshold": 7, "run_max_try": 1, "node_count": 2}
    predict("redriving", operator={"retries": 0}, **settings) >> after()
