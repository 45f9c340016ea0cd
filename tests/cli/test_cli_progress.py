# SPDX-License-Identifier: Apache-2.0
"""What a run shows while it goes on."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
from typing import Any

import pytest
from workplace import COMMAND, ECHO

from airflow_parallelrun.cli import progress
from airflow_parallelrun.engine.progress import Progress


def node(index: int, done: int, failed: int = 0) -> Progress:
    return Progress(index, 1, "running", 100, done, failed, done, failed, 1.0, 2, 0.1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_nodes_are_added_up(clock: Clock) -> None:
    stream = io.StringIO()
    board = progress.Board(100, progress.Lines(stream))
    clock.now += 2
    board.update(node(0, 10))
    clock.now += 8
    board.update(node(1, 15, failed=2))
    assert stream.getvalue() == "25 of 100 mini-batches done, 2 failed, 2.5/s, 30 s left\n"
    assert board.done == 25


def test_lines_come_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    board = progress.Board(100, progress.Lines(stream))
    for done in range(1, 101):
        clock.now += 0.3
        board.update(node(0, done))
    board.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("100 of 100 mini-batches done, 0 failed, 3.33/s")
    assert "left" not in lines[-1]


def test_a_run_that_does_not_move_shows_that_it_is_alive(clock: Clock) -> None:
    stream = io.StringIO()
    board = progress.Board(100, progress.Lines(stream))
    for _ in range(125):
        clock.now += 1
        board.update(node(0, 0))
    assert stream.getvalue() == "0 of 100 mini-batches done, 0 failed, 0/s\n" * 2


def test_nothing_is_shown_twice(clock: Clock) -> None:
    stream = io.StringIO()
    board = progress.Board(100, progress.Lines(stream))
    clock.now += 6
    board.update(node(0, 1))
    board.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_rates_are_for_people() -> None:
    assert "26100/s" in str(progress.Totals(100, 50, 0, 26100.0, None))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.94, "9.9 s"), (12.3, "12 s"), (75, "1 min 15 s"), (3600 * 2 + 61, "2 h 1 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_terminal_gets_a_bar(nodes: str, work: Any) -> None:
    command = [*COMMAND, "run", work.script(ECHO), "--input", work.files(20), "--output", "output"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, "--mini-batch-size", "1", "--node-count", nodes],
        cwd=work.folder,
        env=work.environment() | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, seen
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert "━" in text
    assert re.search(r"20/20 mini-batches, 0 failed, [\d.]+/s 0:00:\d\d", text)
    assert b"succeeded in" in out
