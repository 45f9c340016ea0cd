# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs commands, measures them, and finds a peer out that writes wrong rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.inputs import Inputs
from benchmarks.measure import ROOT, Bench, CommandFailedError
from benchmarks.peers import DYNAMIC_LOOP, LOOP, POOL, Program, Task, command_peers
from benchmarks.session import Session
from benchmarks.workloads import SCRIPTS, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Result

FILES = 30
CPU_S = 0.3
ORPHAN = f"""
import os, time
if os.fork() == 0:
    while time.process_time() < {CPU_S}: pass
"""
FAMILY = """
import subprocess
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open("pid", "w").write(str(child.pid))
child.wait()
"""


@dataclass(frozen=True)
class Spoiled(Program):
    """A loop that writes its first row so many times."""

    times: int = 1

    def run(self, task: Task, bench: Bench) -> Result:
        result = super().run(task, bench)
        first, *rest = result.rows.read_bytes().splitlines(keepends=True)
        result.rows.write_bytes(b"".join([first] * self.times + rest))
        return result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, limit_s=60)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(SCRIPTS / "noop.py", Inputs(tmp_path / "inputs").empty(FILES), 1)


def launch(folder: Path, limit_s: int, code: str) -> dict[str, Any]:
    result = folder / "result.json"
    launcher = [sys.executable, str(ROOT / "benchmarks" / "launcher.py"), str(result), str(limit_s)]
    subprocess.run([*launcher, sys.executable, "-c", code], cwd=folder, check=True)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def test_peers_are_compared_and_wrong_rows_found_out(bench: Bench, task: Task) -> None:
    peers = {peer.name: peer for peer in command_peers()}
    peers |= {"loses": Spoiled("loses", "loop", times=0), "doubles": Spoiled("doubles", "loop", times=2)}
    workload = Workload("noop", "nothing", task, FILES, (POOL, DYNAMIC_LOOP, "loses", "doubles"))
    pairs = {POOL: 2, DYNAMIC_LOOP: 1, "loses": 2, "doubles": 1}
    pool, dynamic, loses, doubles = Session(bench, peers).compare(workload, pairs)
    assert (len(pool.runs), len(pool.loops), pool.wrong) == (2, 2, "")
    assert (len(dynamic.runs), dynamic.wrong) == (1, "")
    assert (loses.runs, loses.wrong) == ([], f"{FILES - 1} rows, and {FILES} are right")
    assert (doubles.runs, doubles.wrong) == ([], f"{FILES + 1} rows, and {FILES} are right")
    for run in (*pool.runs, *pool.loops):
        parts = run.start_s, run.init_s, run.work_s, run.end_s
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(run.wall_s)
        assert run.cpu_s > 0


def test_a_command_that_fails_is_told_with_what_it_printed(bench: Bench, task: Task) -> None:
    script = bench.out.parent / "broken.py"
    script.write_text("raise SystemExit('no such model')\n")
    broken = Task(script, task.folder, 1)
    with pytest.raises(CommandFailedError, match=r"exit status 1: .*(.*\n)*.*no such model"):
        Program(LOOP, "loop").run(broken, bench)


def test_memory_is_that_of_the_tree_and_of_all_but_the_workers(bench: Bench, tmp_path: Path) -> None:
    task = Task(SCRIPTS / "sleep.py", Inputs(tmp_path / "inputs").sleeps((0.5, 0.5)), 1)
    memory = Program(LOOP, "loop").measure_memory(task, bench)
    assert memory.tree_mb > memory.others_mb > 1


def test_cpu_time_of_orphans_counts(tmp_path: Path) -> None:
    found = launch(tmp_path, 60, ORPHAN)
    assert found["status"] == 0
    assert found["cpu_s"] >= CPU_S


def test_nothing_is_left_of_a_command_that_takes_too_long(tmp_path: Path) -> None:
    assert launch(tmp_path, 1, FAMILY)["status"] is None
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_inputs_are_made_once(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    folder = inputs.sleeps((0.25, 1.5))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [path.read_text() for path in files] == ["0.25", "1.5"]
    before = files[0].stat().st_mtime_ns
    assert inputs.sleeps((0.25, 1.5)) == folder
    assert files[0].stat().st_mtime_ns == before
