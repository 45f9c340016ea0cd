# SPDX-License-Identifier: Apache-2.0
"""The DAG whose nodes are stopped and killed; its processes are hard to end."""

from __future__ import annotations

from airflow.sdk import DAG
from steps import predict

with DAG("stopping", schedule=None):
    predict(
        "stopping",
        entry_script="stubborn.py",
        process_count_per_node=2,
        run_max_try=2,
        environment_variables={"GREETING": "hello"},
    )
