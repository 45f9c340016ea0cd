# SPDX-License-Identifier: Apache-2.0
"""The three tasks of a step over the real engine, with what Airflow would keep for them in memory."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.operators.reduce import ReduceOperator
from airflow_parallelrun.operators.run import NodeOperator
from airflow_parallelrun.operators.split import SplitOperator

if TYPE_CHECKING:
    from pathlib import Path


class Job:
    """A job's three tasks and what Airflow would keep for them."""

    dag_id, run_id = "nightly", "manual__1"

    def __init__(self, folder: Path, script: str, **changes: Any) -> None:
        self.folder = folder
        self.arguments: list[Any] = ["--factor", 3, "--rate", 0.5]
        self.output: Any = str(folder / "out")
        self.inputs = [FileDataset.from_files("input").as_mount().to_dict()]
        self.side_inputs: list[dict[str, Any]] = []
        # Of this run; and of all runs of the DAG, by run id.
        self.xcoms: dict[str, Any] = {}
        self.states: dict[str, str | None] = {"predict.split": "success"}
        self.runs: dict[str, Job] = {self.run_id: self}
        self.state_store = SimpleNamespace(set=self._set)
        self.shown: dict[str, Any] = {}
        self.context: Any = {
            "ti": self,
            "dag": SimpleNamespace(fileloc=str(folder / "dag.py")),
            "dag_run": SimpleNamespace(conf={}, logical_date=None),
            "task_state_store": self.state_store,
        }
        (folder / "score.py").write_text(script)
        (folder / "input").mkdir()
        for index in range(4):
            (folder / "input" / f"{index}.txt").write_text("x")
        values = {
            "environment": Environment(),
            "entry_script": "score.py",
            "source_directory": ".",
            "error_threshold": 0,
            "output_action": "append_row",
            "compute_target": ComputeTarget(),
            "node_count": 1,
            "process_count_per_node": 1,
            "mini_batch_size": 1,
        }
        self.config = ParallelRunConfig(**{**values, **changes}).to_dict()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def again(self, run_id: str, **conf: Any) -> Job:
        """Make another run of the same DAG."""
        other = copy.copy(self)
        other.run_id, other.xcoms, other.states = run_id, {}, {"predict.split": "success"}
        dag_run = SimpleNamespace(conf=conf, logical_date=None)
        other.context = {**self.context, "ti": other, "dag_run": dag_run}
        self.runs[run_id] = other
        return other

    def xcom_pull(self, task_ids: str, key: str, run_id: str | None = None) -> Any:
        return self.runs[run_id or self.run_id].xcoms.get(key)

    def get_task_states(self, dag_id: str, run_ids: list[str], **_: Any) -> dict[str, Any]:
        found = {run_id: self.runs[run_id].states for run_id in run_ids if run_id in self.runs}
        return {run_id: states for run_id, states in found.items() if states}

    def _set(self, key: str, value: Any) -> None:
        self.shown[key] = value

    def task(self, origins: dict[str, str] | None = None, **config: Any) -> SplitOperator:
        with DAG(self.dag_id, schedule=None):
            return SplitOperator(
                task_id="predict.split",
                config={**self.config, **config},
                inputs=self.inputs,
                output_folder=self.output,
                arguments=self.arguments,
                side_inputs=self.side_inputs,
                origins=origins or {},
            )

    def split(self, origins: dict[str, str] | None = None, **config: Any) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.task(origins, **config).execute(self.context)
        return nodes

    def node(self) -> NodeOperator:
        return NodeOperator(task_id="predict.run", node=self.split()[0])

    def reduce(self) -> Any:
        return ReduceOperator(task_id="predict.reduce", split_task_id="predict.split").execute(self.context)
