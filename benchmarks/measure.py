# SPDX-License-Identifier: Apache-2.0
"""Runs the command of a peer, and tells what it took: wall and CPU time, when things happened, and memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from benchmarks.processes import Memory, Sampler
from benchmarks.scripts.stamps import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent

_SHOWN_CHARACTERS = 2000

# One core per process, for every peer alike.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
# The first run, which is not counted, leaves what it imports compiled; as an installation does.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


class CommandFailedError(Exception):
    """The command of a peer ended with an error."""


class Stamps(NamedTuple):
    """What a process has stamped: ns on the monotonic clock, 0 for what has not been yet."""

    pid: int
    init_began: int
    init_ended: int
    first_run_ended: int
    last_run_ended: int


@dataclass(frozen=True)
class Measured:
    """What a run took.

    :param wall_s: from the start of the command to its end
    :param cpu_s: of the whole process tree
    :param start_s: from the start of the command to the first ``init()``
    :param init_s: until it has ended in the process where it began first
    :param work_s: from there to the end of the last ``run()``
    :param end_s: from there to the end of the command
    """

    wall_s: float
    cpu_s: float
    start_s: float
    init_s: float
    work_s: float
    end_s: float

    @property
    def fixed_s(self) -> float:
        """What does not depend on the work: before the first ``init()`` and after the last ``run()``."""
        return self.start_s + self.end_s

    @property
    def span_s(self) -> float:
        """From the first ``init()`` to the end of the last ``run()``."""
        return self.init_s + self.work_s

    @classmethod
    def of(cls, began: int, ended: int, cpu_s: float, stamps: Iterable[Stamps]) -> Self:
        """Make it from moments in ns on the monotonic clock.

        :raises CommandFailedError: when no process got as far as to a ``run()``
        """
        stamps = list(stamps)
        if not any(each.last_run_ended for each in stamps):
            raise CommandFailedError("it ended well, but no process has called run()")
        first = min(stamps, key=lambda each: each.init_began)
        moments = (
            began,
            first.init_began,
            first.init_ended,
            max(each.last_run_ended for each in stamps),
            ended,
        )
        return cls((ended - began) / 1e9, cpu_s, *((end - start) / 1e9 for start, end in pairwise(moments)))


class Bench:
    """A folder where one command after the other is run.

    :param folder: everything of a run is below it; it is on the disk that is measured
    :param limit_s: a command that takes longer has failed
    """

    def __init__(self, folder: Path, limit_s: int = 3600) -> None:
        self.out = folder / "out"
        self.stamps = self.out / "stamps"
        self._log = self.out / "command.log"
        self._result = self.out / "measured.json"
        self._limit_s = limit_s

    def measure(self, command: Sequence[str], environment: Mapping[str, str]) -> Measured:
        """Run a command to its end, and return what it took.

        :raises CommandFailedError: when its exit status is not 0
        """
        with self.started(command, environment) as running:
            running.wait()
        return self.finished(command)

    def measure_memory(self, command: Sequence[str], environment: Mapping[str, str]) -> Memory:
        """Run a command to its end, and look at its memory all the time, which takes time itself.

        :raises CommandFailedError: when its exit status is not 0
        """
        with self.started(command, environment) as running, Sampler(running.pid) as sampler:
            running.wait()
        self.finished(command)
        return sampler.peaks({each.pid for each in self.read_stamps()})

    def clear(self) -> None:
        """Remove what the last command has left."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.stamps.mkdir(parents=True)

    def started(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command under the launcher, in an empty folder; :meth:`finished` comes next."""
        self.clear()
        launcher = [sys.executable, str(ROOT / "benchmarks" / "launcher.py")]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*launcher, str(self._result), str(self._limit_s), *command],
                env={**surroundings(), "BENCHMARK_STAMPS": str(self.stamps), **environment},
                cwd=self.out,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def finished(self, command: Sequence[str]) -> Measured:
        """Return what the command took that has ended just now.

        :raises CommandFailedError: when its exit status is not 0
        """
        result = json.loads(self._result.read_text())
        if result["status"] != 0:
            end = f"exit status {result['status']}"
            if result["status"] is None:
                end = f"after {self._limit_s} s it was stopped"
            raise CommandFailedError(f"{end}: {' '.join(command)}\n{self.output()[-_SHOWN_CHARACTERS:]}")
        return Measured.of(result["began"], result["ended"], result["cpu_s"], self.read_stamps())

    def output(self) -> str:
        """Return what the command has printed."""
        return self._log.read_text(errors="replace")

    def read_stamps(self) -> list[Stamps]:
        """Return what the processes of the current or last command have stamped."""
        return [
            Stamps(int(path.name), *FORMAT.unpack(content))
            for path in sorted(self.stamps.iterdir())
            if len(content := path.read_bytes()) == FORMAT.size
        ]


def surroundings() -> dict[str, str]:
    """Return the environment of every peer; the engine on PYTHONPATH comes before this folder's."""
    path = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
    return {**os.environ, **THREADS, **_COMPILED, **_QUIET, "PYTHONPATH": os.pathsep.join(path)}
