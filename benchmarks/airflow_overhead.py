# SPDX-License-Identifier: Apache-2.0
"""What Airflow adds to a job: the same one by ``parallelrun run`` and on a real Airflow of its own.

``python -m benchmarks.airflow_overhead [MINI_BATCHES …]``, by default 100, 10,000 and 100,000 of one small
file each, on one node with two processes. Prints where the seconds of both runs are:

- scheduler: no task is queued or runs; the scheduler decides what comes next
- queued: a task waits for a slot and for its process
- around: inside a process, but not in the engine: imports, parsing of the DAG file, XComs
- split, node, reduce: the engine, the same code in both
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import airflow_parallelrun
from demo.local_airflow import LocalAirflow

_COUNTS = (100, 10_000, 100_000)
_PARTS = ("scheduler", "queued", "around", "split", "node", "reduce")
_SCRIPT = "def run(mini_batch):\n    return mini_batch\n"
_DAG = """
from airflow.sdk import DAG
from airflow_parallelrun import (
    ComputeTarget, Dataset, Environment, ParallelRunConfig, ParallelRunOperator, PipelineParameter)

with DAG("overhead", schedule=None):
    config = ParallelRunConfig(
        environment=Environment(), source_directory="scripts", entry_script="echo.py", error_threshold=0,
        output_action="append_row", compute_target=ComputeTarget(), mini_batch_size=1, node_count=1,
        process_count_per_node=2)
    files = PipelineParameter("files", Dataset.File.from_files("/"))
    ParallelRunOperator(
        task_id="predict", parallel_run_config=config, inputs=[files.as_mount()],
        output="ROOT/airflow/{{ run_id }}")
"""


def main(counts: list[int]) -> None:
    """Measure each number of mini-batches and print the table."""
    with tempfile.TemporaryDirectory(prefix="parallelrun-benchmark-") as name:
        root = Path(name)
        scripts = root / "dags" / "scripts"
        scripts.mkdir(parents=True)
        (scripts / "echo.py").write_text(_SCRIPT)
        (root / "dags" / ".airflowignore").write_text("scripts/\n")
        (root / "dags" / "overhead.py").write_text(_DAG.replace("ROOT", name))
        path = {"PYTHONPATH": str(Path(airflow_parallelrun.__file__).parents[1])}
        with LocalAirflow(root / "home", root / "dags", environment=path) as airflow:
            airflow.wait_for_dags(["overhead"])
            print(f"{'mini-batches':<24}" + "".join(f"{part:>11}" for part in ("total", *_PARTS)))
            for count in counts:
                for where, parts in _measure(airflow, root, count).items():
                    figures = [sum(parts.values()), *(parts.get(part, 0.0) for part in _PARTS)]
                    print(f"{count:>10,} {where:<13}" + "".join(f"{figure:>11.1f}" for figure in figures))


def _measure(airflow: LocalAirflow, root: Path, count: int) -> dict[str, dict[str, float]]:
    files = root / "input" / str(count)
    files.mkdir(parents=True)
    for number in range(count):
        (files / f"{number}.txt").write_text("x")
    return {"bare": _bare(root, files), "on Airflow": _on_airflow(airflow, root, files)}


def _bare(root: Path, files: Path) -> dict[str, float]:
    script, output = root / "dags" / "scripts" / "echo.py", root / "bare" / files.name
    options = {"--input": files, "--output": output, "--mini-batch-size": 1, "--process-count-per-node": 2}
    words = [str(word) for option in options.items() for word in option]
    argv = [sys.executable, "-m", "airflow_parallelrun.cli", "run", str(script), *words]
    started = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    total = time.monotonic() - started
    engine = _engine(output)
    return {"around": total - sum(engine.values()), **engine}


def _on_airflow(airflow: LocalAirflow, root: Path, files: Path) -> dict[str, float]:
    client = airflow.client
    run_id = client.trigger("overhead", {"files": str(files)})
    run = client.wait("overhead", run_id, timeout_s=1800)
    if run["state"] != "success":
        raise SystemExit(f"the run {run_id} is {run['state']}; see {airflow.home}/logs")
    # The three tasks come one after the other.
    tasks = client.task_instances("overhead", run_id)
    queued = sum(_seconds(task["queued_when"], task["start_date"]) for task in tasks)
    working = sum(_seconds(task["start_date"], task["end_date"]) for task in tasks)
    total = _seconds(run["start_date"], run["end_date"])
    engine = _engine(root / "airflow" / run_id)
    around = working - sum(engine.values())
    return {"scheduler": total - queued - working, "queued": queued, "around": around, **engine}


def _engine(output: Path) -> dict[str, float]:
    result = json.loads((output / "job_result.json").read_text())
    (end,) = Path(result["run_dir"], "ends").iterdir()
    durations = result["durations"]
    node = json.loads(end.read_text())["seconds"]
    return {"split": durations["split_s"], "node": node, "reduce": durations["reduce_s"]}


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or list(_COUNTS))
