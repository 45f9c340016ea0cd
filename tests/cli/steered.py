# SPDX-License-Identifier: Apache-2.0
"""A run whose script does what the files in a folder say, and what is to be checked of it."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from workplace import Ended

from airflow_parallelrun.engine.journal import parse

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

FILES = 12
NAMES = [f"{number:03d}.txt" for number in range(FILES)]

# Leaves a line for every call. Waits, fails or returns nothing as long as "hold-NAME", … is there.
STEERED = """
import os, time
def run(mini_batch):
    folder, name = os.environ["STEERED"], os.path.basename(mini_batch[0])
    with open(os.path.join(folder, "calls"), "a") as calls:
        calls.write(name + "\\n")
    time.sleep(0.05)  # long enough that each result is reported at once
    while os.path.exists(os.path.join(folder, "hold-" + name)):
        time.sleep(0.02)
    if os.path.exists(os.path.join(folder, "fail-" + name)):
        raise ValueError("broken picture")
    return [name] if not os.path.exists(os.path.join(folder, "short-" + name)) else []
"""


class Steered:
    """A run of a script that is steered by files, and its calls."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.folder = work.folder / "steered"
        self.folder.mkdir()

    def start(self, *flags: str, nodes: int = 1, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start ``parallelrun run`` over 12 files, one each, with two processes on each node."""
        self.tell(*flags)
        fixed = ("--input", self.work.files(FILES), "--output", "output", "--mini-batch-size", "1")
        sizes = ("--node-count", str(nodes), "--process-count-per-node", "2", "--run-max-try", "1")
        variable = ("--environment-variable", f"STEERED={self.folder}")
        given = (self.work.script(STEERED), *fixed, *sizes, *variable, *options)
        process: subprocess.Popen[str] = self.work.start("run", *given)
        return process

    def run(self, *flags: str, nodes: int = 1, options: tuple[str, ...] = ()) -> Ended:
        """Do the same, and wait for its end."""
        process = self.start(*flags, nodes=nodes, options=options)
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    def tell(self, *flags: str) -> None:
        """Give flags."""
        for flag in flags:
            (self.folder / flag).touch()

    def untell(self, *flags: str) -> None:
        """Take flags back."""
        for flag in flags:
            (self.folder / flag).unlink()

    def calls(self) -> Counter[str]:
        """Return how often run() was called with each file."""
        path = self.folder / "calls"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    @property
    def run_dir(self) -> Path:
        """The one run directory."""
        (plan,) = self.work.folder.glob("output/.parallelrun/*/plan.json")
        return Path(plan).parent

    def committed(self) -> set[str]:
        """Return the files whose mini-batch has succeeded, as the journals say."""
        lines = [
            line
            for journal in (self.run_dir / "journal").glob("*.jsonl")
            for text in journal.read_bytes().splitlines(keepends=True)[1:]
            for line in parse(text).lines()
        ]
        return {NAMES[line.ordinal] for line in lines if line.status == "ok"}

    def rows(self) -> list[str]:
        """Return the rows of the output."""
        rows: list[str] = self.work.rows()
        return rows

    def result(self) -> dict[str, Any]:
        """Return ``job_result.json``."""
        path = self.work.folder / "output" / "job_result.json"
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def eventually(probe: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait until *probe* returns something true."""
    deadline = time.monotonic() + 60
    while not (found := probe()):
        if process is not None:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def until_held(steered: Steered, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until 4 and 5 wait in run() and those before are committed; returns what is below the command."""
    eventually(lambda: {"004.txt", "005.txt"} <= set(steered.calls()), process)
    eventually(lambda: set(NAMES[:4]) <= steered.committed(), process)
    below: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return below


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def assert_complete(steered: Steered, again: Counter[str], round_: int) -> None:
    """Check that every row is there once, and that the script was called again with these files alone."""
    assert steered.rows() == NAMES
    assert steered.calls() - Counter(NAMES) == again
    result = steered.result()
    assert (result["verdict"], result["round"]) == ("succeeded", round_)
    assert result["counts"]["succeeded"] == FILES


def told(err: str) -> list[str]:
    """Return the command that the message names, as a shell would take it."""
    found = re.search(r"To go on: parallelrun (resume .+)$", err, re.MULTILINE)
    assert found, err
    return shlex.split(found[1])
