# SPDX-License-Identifier: Apache-2.0
"""Measurements of ours that are no race: listing, a killed worker, memory, flushes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import ROOT, CommandFailedError, surroundings
from benchmarks.peers import LOOP, Ours, Program
from benchmarks.verify import check, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Bench, Stamps
    from benchmarks.peers import Task

_DEADLINE_S = 120.0
_POLL_S = 0.005
_LISTINGS = 5


class Replacement(NamedTuple):
    """How long it takes until a process is ready to run mini-batches.

    :param cold_s: from the start of a command that imports the script and calls ``init()`` to the end of that
    :param killed_s: from the kill of a worker to the end of its successor's ``init()``
    """

    cold_s: float
    killed_s: float


def listing_us(folder: Path) -> float:
    """Return how many µs it takes for each file to list a folder as ``split`` does, the best of several.

    :raises CommandFailedError: when the engine's listing cannot be called
    """
    command = [sys.executable, str(ROOT / "benchmarks" / "programs" / "listing.py"), str(folder)]
    times = []
    for _ in range(_LISTINGS):
        done = subprocess.run(command, env=surroundings(), capture_output=True, text=True)
        if done.returncode:
            raise CommandFailedError(f"{' '.join(command)}\n{done.stderr}")
        found = json.loads(done.stdout)
        times.append(found["seconds"] / found["files"] * 1e6)
    return min(times)


def replacement(bench: Bench, task: Task) -> Replacement:
    """Kill a worker at work, and see how soon another one is ready.

    :param task: it must last until then
    :raises CommandFailedError: when the run fails, or no other worker comes
    :raises WrongOutputError: when rows are lost or doubled
    """
    cold = Program(LOOP, "loop", processes=1).run(task, bench).measured
    right = fingerprint(bench.out / "rows.txt")
    command = Ours().command(task, bench)
    with bench.started(command, task.environment) as running:
        try:
            victim = _wait(bench, running, 2, lambda each: each.last_run_ended > 0)
            os.kill(victim.pid, signal.SIGKILL)
            killed = time.monotonic_ns()
            new = _wait(bench, running, 1, lambda each: each.init_began > killed and each.init_ended > 0)
        except BaseException:
            running.terminate()
            raise
    bench.finished(command)
    check(Ours.rows(bench), right)
    return Replacement(cold.start_s + cold.init_s, (new.init_ended - killed) / 1e9)


def flushes(bench: Bench, task: Task) -> int | None:
    """Return how many calls of fsync and fdatasync a run makes; None where strace cannot tell."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    trace = bench.out.parent / "flushes.txt"
    command = [strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
    try:
        bench.measure([*command, *Ours().command(task, bench)], task.environment)
        return len(re.findall(r"^\d+ +(?:fsync|fdatasync)\(", trace.read_text(), re.M))
    except CommandFailedError:  # tracing is not allowed everywhere
        return None
    finally:
        trace.unlink(missing_ok=True)


def _wait(
    bench: Bench, running: subprocess.Popen[bytes], count: int, ready: Callable[[Stamps], bool]
) -> Stamps:
    """Wait until so many processes of a command have come so far, and return the last of them."""
    deadline = time.monotonic() + _DEADLINE_S
    while len(found := [each for each in bench.read_stamps() if ready(each)]) < count:
        if running.poll() is not None or time.monotonic() > deadline:
            raise CommandFailedError(f"no worker took the place of the one that was killed\n{bench.output()}")
        time.sleep(_POLL_S)
    return found[-1]
