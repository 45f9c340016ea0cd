# SPDX-License-Identifier: Apache-2.0
"""A step over the rows of a query, by a connection that Airflow has."""

from __future__ import annotations

from airflow.sdk import DAG
from steps import predict

from airflow_parallelrun import Dataset

with DAG("query", schedule=None):
    sales = Dataset.Tabular.from_sql_query("SELECT * FROM sales", connection="sales", key="id")
    predict(
        "query",
        entry_script="rows.py",
        inputs=[sales.as_named_input("sales")],
        node_count=2,
        mini_batch_size="3rows",
    )
