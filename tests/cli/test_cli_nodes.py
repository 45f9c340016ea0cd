# SPDX-License-Identifier: Apache-2.0
"""Several nodes, and what Ctrl-C leaves behind: rows that are committed, and no process."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from workplace import ECHO

if TYPE_CHECKING:
    import subprocess

WAITING = """
import os, time
from pathlib import Path
def run(mini_batch):
    name = os.path.basename(mini_batch[0])
    if name >= "004.txt":
        Path(os.environ["MARKERS"], name).touch()
        while not os.path.exists(os.environ["MARKERS"] + "/go"):
            time.sleep(0.05)
    return [name]
"""


def start(work: Any, nodes: str, *options: str, script: str = WAITING) -> subprocess.Popen[str]:
    (work.folder / "markers").mkdir()
    fixed = ("--input", work.files(30), "--output", "output", "--mini-batch-size", "1", "--node-count", nodes)
    marker = f"MARKERS={work.folder / 'markers'}"
    options = (*options, "--process-count-per-node", "2", "--environment-variable", marker)
    process: subprocess.Popen[str] = work.start("run", work.script(script), *fixed, *options)
    return process


def wait_for_markers(work: Any, process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """Wait until *count* processes are in run(); returns all processes below the command."""
    deadline = time.monotonic() + 60
    while len(list((work.folder / "markers").iterdir())) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    assert len(below) > count
    return below


def node_process(below: list[psutil.Process], index: int) -> psutil.Process:
    for each in below:
        command = [] if each.status() == psutil.STATUS_ZOMBIE else each.cmdline()
        if command[-3:-2] == ["node"] and command[-1] == str(index):
            return each
    raise AssertionError(f"node {index} does not run")


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_three_nodes_give_every_row_once(work: Any) -> None:
    options = ("--node-count", "3", "--process-count-per-node", "1", "--mini-batch-size", "1")
    ended = work.command("run", work.script(ECHO), "--input", work.files(60), "--output", "output", *options)
    assert ended.status == 0, ended.err
    assert work.rows() == [f"{number:03d}.txt" for number in range(60)]
    assert "60 mini-batches of 60 items on 3 nodes" in ended.err
    assert "60 of 60 mini-batches done, 0 failed" in ended.err
    run_dir = next((work.folder / "output" / ".parallelrun").glob("*/plan.json")).parent
    assert sorted(path.name for path in (run_dir / "ends").iterdir()) == ["0-1", "1-1", "2-1"]


@pytest.mark.parametrize("nodes", ["1", "2"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything(nodes: str, number: int, status: int, work: Any) -> None:
    process = start(work, nodes)
    below = wait_for_markers(work, process, 1 + int(nodes))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert out == ""
    assert "Traceback" not in err
    told = re.fullmatch(
        r"parallelrun: interrupted; (\d+) of 30 mini-batches are committed. "
        r"To go on: parallelrun resume (.+)",
        err.splitlines()[-1],
    )
    assert told is not None, err
    assert int(told[1]) >= 1
    assert Path(told[2], "plan.json").exists()
    assert_gone(below)


def test_ctrl_c_on_a_terminal_reaches_every_process_and_is_one_stop(work: Any) -> None:
    """A terminal signals the whole foreground group: here the nodes, too."""
    process = start(work, "2")
    below = wait_for_markers(work, process, 3)
    for each in below:
        if os.getpgid(each.pid) == os.getpgid(process.pid):
            each.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert_gone(below)


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_an_impatient_second_ctrl_c_leaves_nothing_either(nodes: str, work: Any) -> None:
    process = start(work, nodes)
    below = wait_for_markers(work, process, 1 + int(nodes))
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert_gone(below)


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_nothing_outlives_a_command_that_is_killed(nodes: str, work: Any) -> None:
    process = start(work, nodes)
    below = wait_for_markers(work, process, 1 + int(nodes))
    process.kill()
    process.communicate(timeout=60)
    assert_gone(below)


def test_a_node_that_does_not_stop_is_killed(work: Any) -> None:
    process = start(work, "2")
    below = wait_for_markers(work, process, 3)
    node_process(below, 1).suspend()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert_gone(below)


def test_a_node_that_dies_is_named(work: Any) -> None:
    process = start(work, "2")
    below = wait_for_markers(work, process, 3)
    node_process(below, 1).kill()
    (work.folder / "markers" / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "parallelrun: node 1 ended without a report (exit status -9)" in err
    assert ", 0 failed, 0 unprocessed)" not in out
    assert_gone(below)


def test_peers_of_a_lost_node_do_the_rest_and_the_next_round_its_share(work: Any) -> None:
    process = start(work, "4")
    below = wait_for_markers(work, process, 8)
    node_process(below, 2).kill()
    (work.folder / "markers" / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = re.search(r"(\d+) mini-batches were not processed \(([\d, ]+)(?:, … and \d+ more)?\)", err)
    assert told is not None, err
    lost = int(told[1])
    assert 1 <= lost <= 8  # what it had claimed; nobody waits for the others' share of the plan
    assert f"{30 - lost} succeeded" in out
    assert not (work.folder / "output" / "parallel_run_step.txt").exists()
    command = re.search(r"To go on: parallelrun (resume .+)", err)
    assert command is not None, err
    ended = work.command(*command[1].split())
    assert ended.status == 0, ended.err
    assert f"{lost} of 30 mini-batches are left to do" in ended.err
    assert work.rows() == [f"{number:03d}.txt" for number in range(30)]
    assert_gone(below)


def test_every_node_that_fails_says_so(work: Any) -> None:
    text = "def init(): raise RuntimeError('no GPU')\ndef run(mini_batch): return []\n"
    process = start(work, "2", script=text)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "processes of node 0 in a row died in init()" in err
    assert "processes of node 1 in a row died in init()" in err
    assert "30 unprocessed" in out
