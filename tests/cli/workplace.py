# SPDX-License-Identifier: Apache-2.0
"""Runs the command as people do, in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import airflow_parallelrun

COMMAND = [sys.executable, "-m", "airflow_parallelrun.cli"]
ECHO = """
import os
def run(mini_batch):
    return [os.path.basename(path) for path in mini_batch]
"""


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Workplace:
    """A folder with an input, and the command in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def script(self, text: str, name: str = "score.py") -> str:
        path = self.folder / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path.relative_to(self.folder))

    def files(self, count: int, name: str = "input") -> str:
        (self.folder / name).mkdir(parents=True)
        for number in range(count):
            (self.folder / name / f"{number:03d}.txt").write_text(f"{number}\n")
        return name

    def environment(self) -> dict[str, str]:
        root = str(Path(airflow_parallelrun.__file__).parents[1])
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PARALLELRUN_", "AIRFLOW")) or name.startswith("PARALLELRUN_CONNECTION_")
        }
        return kept | {"PYTHONPATH": root, "PYTHONWARNINGS": "default::ResourceWarning", **self.variables}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment(), text=True, **pipes
        )
        self.started.append(process)
        return process

    def command(self, *arguments: str, stdin: str = "") -> Ended:
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=120)
        assert "ResourceWarning" not in err
        return Ended(process.returncode, out, err)

    def run(self, script: str, *options: str, files: int = 4) -> Ended:
        """``parallelrun run`` with one process, over *files* files in mini-batches of one, to ``output``."""
        source = "input" if (self.folder / "input").exists() else self.files(files)
        fixed = ("--input", source, "--output", "output", "--mini-batch-size", "1")
        return self.command("run", script, *fixed, "--process-count-per-node", "1", *options)

    def rows(self, name: str = "parallel_run_step.txt") -> list[str]:
        return sorted((self.folder / "output" / name).read_text().splitlines())
