# SPDX-License-Identifier: Apache-2.0
"""The peers that run on a real Airflow, which is started for the first of them and stopped after the last."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from benchmarks.measure import ROOT, THREADS, CommandFailedError, Measured, surroundings
from benchmarks.peers import PROCESSES, Ours, Result, engine_seconds
from benchmarks.processes import cpu_seconds, descendants

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Bench
    from benchmarks.peers import Task

    # Only where it is used: it needs Airflow's packages.
    from demo.local_airflow import LocalAirflow

# The names of the peers; those of their DAGs are the files' in benchmarks/dags.
AIRFLOW, EXPAND = "airflow", "expand"
_DAG = "on_airflow"
# Airflow's own default is that a DAG has 16 tasks at once.
_PARALLELISM = 16
_DEADLINE_S = 1800.0


class Deployment:
    """An Airflow of its own with the two DAGs of the benchmark.

    :param home: everything of it, but for results
    :param bench: where the results go
    """

    def __init__(self, home: Path, bench: Bench) -> None:
        self._home = home
        self._bench = bench
        self._airflow: LocalAirflow | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._airflow is not None:
            self._airflow.stop()

    def run(self, dag_id: str, conf: dict[str, Any]) -> Measured:
        """Trigger a DAG and wait for the end of the run.

        :raises CommandFailedError: when Airflow does not start or answer, or the run has failed
        """
        try:
            return self._run(dag_id, conf)
        except (RuntimeError, TimeoutError) as error:  # what demo's Airflow and its client raise
            raise CommandFailedError(str(error)) from error

    def _run(self, dag_id: str, conf: dict[str, Any]) -> Measured:
        client = self._started().client
        # This Airflow and whatever its tasks start are children of this process.
        cpu_before = cpu_seconds(descendants(os.getpid()))
        clocks = time.time_ns() - time.monotonic_ns()
        began = time.monotonic_ns()
        run_id = client.trigger(dag_id, conf)
        run = client.wait(dag_id, run_id, timeout_s=_DEADLINE_S)
        cpu_s = cpu_seconds(descendants(os.getpid())) - cpu_before
        if run["state"] != "success":
            raise CommandFailedError(f"the run {run_id} of {dag_id} is {run['state']}; see {self._home}/logs")
        ended = _nanoseconds(run["end_date"]) - clocks
        return Measured.of(began, ended, cpu_s, self._bench.read_stamps())

    def _started(self) -> LocalAirflow:
        if self._airflow is None:
            from demo.local_airflow import LocalAirflow

            environment = {
                **THREADS,
                "PYTHONPATH": surroundings()["PYTHONPATH"],
                "BENCHMARK_OUT": str(self._bench.out),
                "BENCHMARK_STAMPS": str(self._bench.stamps),
            }
            dags = ROOT / "benchmarks" / "dags"
            self._airflow = LocalAirflow(self._home, dags, environment=environment, parallelism=_PARALLELISM)
            self._airflow.start([_DAG, EXPAND])
        return self._airflow


@dataclass(frozen=True)
class OnAirflow:
    """Ours, as a task group of a DAG."""

    deployment: Deployment
    name: str = AIRFLOW
    processes: int = PROCESSES

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        return _missing()

    def run(self, task: Task, bench: Bench) -> Result:
        """Do the task."""
        bench.clear()
        measured = self.deployment.run(_DAG, _conf(task))
        return Result(measured, Ours.rows(bench), engine_seconds(bench.out / "output"))


@dataclass(frozen=True)
class Expand:
    """Airflow alone: a mapped task per mini-batch, as many at once as Airflow runs by default."""

    deployment: Deployment
    name: str = EXPAND
    processes: int = _PARALLELISM

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        return _missing()

    def run(self, task: Task, bench: Bench) -> Result:
        """Do the task."""
        bench.clear()
        return Result(self.deployment.run(EXPAND, _conf(task)), bench.out / "rows.txt")


def _conf(task: Task) -> dict[str, Any]:
    assert task.script.name == "mlp.py", task.script
    return {"folder": str(task.folder), "mini_batch_size": task.mini_batch_size}


def _missing() -> str | None:
    return None if find_spec("airflow") else "apache-airflow is not installed"


def _nanoseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1e9)
