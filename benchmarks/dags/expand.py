# SPDX-License-Identifier: Apache-2.0
"""The files workload with Airflow alone: a mapped task per mini-batch, and one that joins the rows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

SCRIPT = Path(__file__).parents[1] / "scripts" / "mlp.py"
OUT = Path(os.environ["BENCHMARK_OUT"])

with DAG("expand", schedule=None, params={"folder": "/", "mini_batch_size": 100}):

    @task
    def split(params: dict[str, Any]) -> list[list[str]]:
        """List the files."""
        from benchmarks.programs.work import Work

        return Work(str(SCRIPT), params["folder"], params["mini_batch_size"], 0, "").mini_batches()

    @task
    def run(mini_batch: list[str]) -> None:
        """Do one mini-batch."""
        from benchmarks.programs.work import load, write

        with open(OUT / f"rows.{get_current_context()['ti'].map_index}", "w") as file:
            write(file, load(str(SCRIPT)).run(mini_batch))

    @task
    def join() -> None:
        """Make one file of the rows."""
        with open(OUT / "rows.txt", "wb") as rows:
            for path in sorted(OUT.glob("rows.[0-9]*")):
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, rows)

    run.expand(mini_batch=split()) >> join()
