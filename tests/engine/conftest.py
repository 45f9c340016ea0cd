# SPDX-License-Identifier: Apache-2.0
"""A run of the engine as one object: write a script and some files, split, run nodes, reduce."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine.node import Node, NodeResult
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.split import RunRequest, split

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult

# Every call of run() leaves the names of its items here: what was run, not what was committed.
CALLS = """
import os
def called(mini_batch):
    with open(os.path.join({calls!r}, str(os.getpid())), "a") as file:
        file.write("".join(os.path.basename(path) + "\\n" for path in mini_batch))
"""

ECHO = """
def run(mini_batch):
    called(mini_batch)
    return [os.path.basename(path) for path in mini_batch]
"""


@dataclass
class Job:
    """A folder with an input, a script, and what becomes of them."""

    folder: Path
    plan: Plan = field(init=False)

    def files(self, count: int) -> Job:
        """Make an input of so many files; each holds its own number."""
        folder = self.folder / "input"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            (folder / f"{number:05d}").write_text(str(number))
        return self

    def split(self, script: str, **config: Any) -> Job:
        """Write the script and split."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        calls = self.folder / "calls"
        calls.mkdir(exist_ok=True)
        (source / "score.py").write_text(CALLS.format(calls=str(calls)) + textwrap.dedent(script))
        self.plan = split(self.request(**config))
        return self

    def request(self, **config: Any) -> RunRequest:
        """Return what would be asked of split."""
        values: dict[str, Any] = {
            "environment": Environment(),
            "entry_script": "score.py",
            "error_threshold": 0,
            "output_action": "append_row",
            "compute_target": ComputeTarget(),
            "node_count": 1,
            "process_count_per_node": 2,
            "mini_batch_size": 1,
            "source_directory": "source",
        }
        output = config.pop("output", "output")
        owner = config.pop("owner", "test/1")
        arguments = tuple(config.pop("arguments", ()))
        inputs = config.pop("inputs", (FileDataset.from_files("input").as_mount(),))
        storage_root = config.pop("storage_root", None)
        return RunRequest(
            config=ParallelRunConfig(**{**values, **config}),
            inputs=inputs,
            output=output,
            owner=owner,
            arguments=arguments,
            base_directory=str(self.folder),
            storage_root=storage_root,
        )

    def node(self, index: int = 0) -> NodeResult:
        """Run a node to its end."""
        return Node(self.plan.run_dir, index).run()

    def reduce(self) -> JobResult:
        """Reduce."""
        return reduce(self.plan.run_dir)

    def run(self) -> JobResult:
        """Run every node, one after the other, and reduce."""
        for index in range(self.plan.node_count):
            self.node(index)
        return self.reduce()

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.folder / "output"

    def rows(self) -> list[str]:
        """The lines of the output file."""
        return (self.output / "parallel_run_step.txt").read_text().splitlines()

    def result(self) -> dict[str, Any]:
        """The content of job_result.json."""
        content: dict[str, Any] = json.loads((self.output / "job_result.json").read_text())
        return content

    def failed_items(self) -> list[dict[str, Any]]:
        """The lines of failed_items.jsonl."""
        return [json.loads(line) for line in (self.output / "failed_items.jsonl").read_text().splitlines()]

    def calls(self) -> Counter[str]:
        """How often each item was given to run()."""
        counter: Counter[str] = Counter()
        for path in (self.folder / "calls").iterdir():
            counter.update(path.read_text().split())
        return counter

    def names(self, count: int, without: set[int] | None = None) -> list[str]:
        """The names of the first so many files."""
        return [f"{number:05d}" for number in range(count) if number not in (without or set())]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A new job in a folder of its own."""
    return Job(tmp_path)


@pytest.fixture
def echo() -> str:
    """A script that returns the names of its items."""
    return ECHO
