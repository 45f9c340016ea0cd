# SPDX-License-Identifier: Apache-2.0
"""The peers: each does a task with its own means, and leaves the rows in one file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.measure import Bench, Measured
    from benchmarks.processes import Memory

PROCESSES = 2
LOOP, DYNAMIC_LOOP = "loop", "dynamic-loop"
OURS, OURS_4, POOL, JOBLIB, RAY = "ours", "ours-4-nodes", "pool", "joblib", "ray"
READ_CSV = "read-csv"


@dataclass(frozen=True)
class Task:
    """What there is to do.

    :param script: the entry script
    :param folder: the folder with the input files
    :param mini_batch_size: files per ``run()``, or bytes of a table
    :param is_table: whether the input is a table
    :param environment: what the script reads from its environment
    """

    script: Path
    folder: Path
    mini_batch_size: int
    environment: Mapping[str, str] = field(default_factory=dict)
    is_table: bool = False


@dataclass(frozen=True)
class Result:
    """What a peer has done.

    :param measured: what it took
    :param rows: the file with the rows, until the next run
    :param engine: where the engine's seconds are, if it was ours: ``split_s``, ``node_s``, ``first_init_s``,
        ``reduce_s``
    """

    measured: Measured
    rows: Path
    engine: Mapping[str, float] = field(default_factory=dict)


class Peer(Protocol):
    """One way to do a task.

    :param name: as tables and options have it
    :param processes: how many run the script
    """

    @property
    def name(self) -> str: ...

    @property
    def processes(self) -> int: ...

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""

    def run(self, task: Task, bench: Bench) -> Result:
        """Do the task.

        :raises CommandFailedError: when it could not be done
        """


@dataclass(frozen=True)
class Program:
    """A program of ``benchmarks/programs``.

    :param name: as the table has it
    :param module: the program's
    :param requires: the package that it is about
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    requires: str | None = None
    processes: int = PROCESSES

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        if self.requires is None or find_spec(self.requires):
            return None
        return f"{self.requires} is not installed (make bench installs it)"

    def run(self, task: Task, bench: Bench) -> Result:
        """Do the task."""
        measured = bench.measure(self._command(task, bench), self._environment(task))
        return Result(measured, bench.out / "rows.txt")

    def measure_memory(self, task: Task, bench: Bench) -> Memory:
        """Do the task, and look at the memory."""
        return bench.measure_memory(self._command(task, bench), self._environment(task))

    def _environment(self, task: Task) -> dict[str, str]:
        # Without the engine on PYTHONPATH, beside which there may be another benchmark.
        return {"PYTHONPATH": str(ROOT), **task.environment}

    def _command(self, task: Task, bench: Bench) -> list[str]:
        work = {
            "script": str(task.script),
            "folder": str(task.folder),
            "mini_batch_size": task.mini_batch_size,
            "processes": self.processes,
            "rows": str(bench.out / "rows.txt"),
        }
        module = f"benchmarks.programs.{'table_' if task.is_table else ''}{self.module}"
        return [sys.executable, "-m", module, json.dumps(work), *self.arguments]


@dataclass(frozen=True)
class Ours:
    """``parallelrun run``, with everything on.

    :param nodes: how many, each with two processes
    """

    name: str = OURS
    nodes: int = 1

    @property
    def processes(self) -> int:
        """How many processes run the script."""
        return PROCESSES * self.nodes

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        return None

    def run(self, task: Task, bench: Bench) -> Result:
        """Do the task."""
        measured = bench.measure(self.command(task, bench), task.environment)
        return Result(measured, self.rows(bench), engine_seconds(bench.out / "output"))

    @staticmethod
    def rows(bench: Bench) -> Path:
        """Return the file with the rows."""
        return bench.out / "output" / "parallel_run_step.txt"

    def measure_memory(self, task: Task, bench: Bench) -> Memory:
        """Do the task, and look at the memory."""
        return bench.measure_memory(self.command(task, bench), task.environment)

    def command(self, task: Task, bench: Bench) -> list[str]:
        """Return the command."""
        variables = {"BENCHMARK_STAMPS": str(bench.stamps), **task.environment}
        options = {
            "--input": task.folder,
            "--input-type": "tabular" if task.is_table else "file",
            "--output": bench.out / "output",
            "--mini-batch-size": task.mini_batch_size,
            "--process-count-per-node": PROCESSES,
            "--node-count": self.nodes,
        }
        words = [str(word) for option in options.items() for word in option]
        for name, value in variables.items():
            words += ["--environment-variable", f"{name}={value}"]
        return [sys.executable, "-m", "airflow_parallelrun.cli", "run", str(task.script), *words]


def engine_seconds(output: Path) -> dict[str, float]:
    """Return where the engine's seconds were.

    :param output: the output folder; with several nodes it is the slowest that counts
    """
    result = json.loads((output / "job_result.json").read_text())
    ends = [json.loads(path.read_text()) for path in Path(result["run_dir"], "ends").iterdir()]
    durations = result["durations"]
    return {
        "split_s": durations["split_s"],
        "node_s": max(end["seconds"] for end in ends),
        "first_init_s": max(end["first_init_s"] or 0.0 for end in ends),
        "reduce_s": durations["reduce_s"],
    }


def command_peers() -> list[Program | Ours]:
    """Return the peers that are a command; the loops come first."""
    return [
        Program(LOOP, "loop"),
        Program(DYNAMIC_LOOP, "loop", ("dynamic",)),
        Ours(),
        Ours(OURS_4, nodes=4),
        Program(POOL, "pool"),
        Program(JOBLIB, "joblib_parallel", requires="joblib"),
        Program(RAY, "ray_data", requires="ray"),
        Program(READ_CSV, "read_csv", processes=1),
    ]
