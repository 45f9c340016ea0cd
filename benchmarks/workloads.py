# SPDX-License-Identifier: Apache-2.0
"""The workloads: what is run, how large it is in each mode, and by whom."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from benchmarks.airflow_peers import AIRFLOW, EXPAND
from benchmarks.measure import ROOT
from benchmarks.peers import DYNAMIC_LOOP, JOBLIB, LOOP, OURS, OURS_4, POOL, RAY, READ_CSV, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from benchmarks.inputs import Inputs

CHECK, QUICK, FULL = MODES = "check", "quick", "full"
# The models run for so long in full mode.
MODEL_S = 22.0

SCRIPTS = ROOT / "benchmarks" / "scripts"
_SHORT_S, _SLOWNESS, _SLOW_SHARE = 0.01, 20, 0.05
_ROW_BYTES, _LARGE_ROW_BYTES = 10_000, 1_000_000
IMAGES_IN_MINI_BATCH = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Workload:
    """Work for several peers.

    :param name: short
    :param title: what it is, and how large
    :param task: the work
    :param rows: how many there have to be
    :param peers: who does it
    :param loop: the peer that they are compared with
    :param seconds: how long each mini-batch sleeps, if that is all it does: then there is an ideal
    """

    name: str
    title: str
    task: Task
    rows: int
    peers: tuple[str, ...]
    loop: str = LOOP
    seconds: tuple[float, ...] = ()

    def ideal_s(self, processes: int) -> float | None:
        """Return how long it takes at best, or None where nobody knows."""
        return makespan(self.seconds, processes) if self.seconds else None


class Making(NamedTuple):
    """What workloads are made from.

    :param mode: how large they are
    :param inputs: makes the files
    :param images: returns how many images a script is to get that takes ``MODEL_S``
    """

    mode: str
    inputs: Inputs
    images: Callable[[str], int]

    def pick(self, check: T, quick: T, full: T) -> T:
        """Return what belongs to the mode."""
        return (check, quick, full)[MODES.index(self.mode)]

    def script(self, name: str, folder: Path, mini_batch_size: int = 1, **environment: str) -> Task:
        """Return a task of a script in ``benchmarks/scripts``."""
        return Task(SCRIPTS / f"{name}.py", folder, mini_batch_size, environment)


def makespan(seconds: Iterable[float], processes: int) -> float:
    """Return how long mini-batches take when whoever is free takes the next one, at no cost.

    That is the best for somebody who does not know beforehand how long each of them takes.
    """
    free_at = [0.0] * processes
    for each in seconds:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def _files(making: Making) -> Workload:
    count = making.pick(200, 10_000, None) or making.images("mlp")
    return _model(making, "files", "mlp", count, (OURS, POOL, JOBLIB, RAY, AIRFLOW))


def _tensorflow(making: Making) -> Workload:
    count = making.pick(200, 3_000, None) or making.images("cnn")
    return _model(making, "tensorflow", "cnn", count, (OURS, POOL, JOBLIB, RAY))


def _expand(making: Making) -> Workload:
    count = making.pick(0, 20, 200) * IMAGES_IN_MINI_BATCH
    return _model(making, "expand", "mlp", count, (AIRFLOW, EXPAND))


def _model(making: Making, name: str, script: str, count: int, peers: tuple[str, ...]) -> Workload:
    size = 20 if making.mode == CHECK else IMAGES_IN_MINI_BATCH
    model = {"mlp": "a numpy model", "cnn": "a TensorFlow CNN"}[script]
    title = f"{count:,} image files, {size} in a mini-batch, {model}"
    return Workload(name, title, making.script(script, making.inputs.images(count), size), count, peers)


def _small(making: Making) -> Workload:
    return _noops(making, "small", 10, (OURS, POOL, JOBLIB, RAY))


def _noop(making: Making) -> Workload:
    return _noops(making, "noop", making.pick(300, 20_000, 100_000), (OURS, POOL, JOBLIB, RAY))


def _million(making: Making) -> Workload:
    return _noops(making, "million", 1_000_000, (OURS, POOL, JOBLIB))


def _noops(making: Making, name: str, count: int, peers: tuple[str, ...]) -> Workload:
    title = f"{count:,} mini-batches of one empty file, run() does nothing"
    return Workload(name, title, making.script("noop", making.inputs.empty(count)), count, peers)


def _skew_spread(making: Making) -> Workload:
    count = making.pick(40, 100, 2_000)
    slow = random.Random(1).sample(range(count), int(count * _SLOW_SHARE))
    return _skew(making, "skew-spread", "5 % take 20 times longer", count, slow)


def _skew_last(making: Making) -> Workload:
    count = making.pick(40, 100, 2_000)
    slow = range(count - int(count * _SLOW_SHARE), count)
    return _skew(making, "skew-last", "5 % take 20 times longer, all at the end", count, slow)


def _skew(making: Making, name: str, what: str, count: int, slow: Sequence[int]) -> Workload:
    seconds = tuple(_SHORT_S * (_SLOWNESS if number in slow else 1) for number in range(count))
    return _sleeps(
        making, name, f"{count:,} mini-batches that sleep {_SHORT_S * 1000:.0f} ms, {what}", seconds
    )


def _skew_one(making: Making) -> Workload:
    longest_s = making.pick(0.5, 1.0, 5.0)
    seconds = (*[0.0] * 100, longest_s, *[0.0] * 100)
    return _sleeps(
        making, "skew-one", f"200 mini-batches that do nothing, amid them one of {longest_s} s", seconds
    )


def _sleeps(making: Making, name: str, title: str, seconds: tuple[float, ...]) -> Workload:
    task = making.script("sleep", making.inputs.sleeps(seconds))
    peers = (OURS, OURS_4, POOL, JOBLIB, RAY)
    return Workload(name, title, task, len(seconds), peers, DYNAMIC_LOOP, seconds)


def _rows(making: Making) -> Workload:
    count = making.pick(50, 5_000, 10_000)
    return _wide(making, "rows", count, _ROW_BYTES, (OURS, POOL, JOBLIB, RAY))


def _output(making: Making) -> Workload:
    return _wide(making, "output", making.pick(5, 250, 2_000), _LARGE_ROW_BYTES, (OURS,))


def _wide(making: Making, name: str, count: int, width: int, peers: tuple[str, ...]) -> Workload:
    title = f"{count:,} mini-batches of one file, each returns a row of {width // 1000:,} KB"
    task = making.script("rows", making.inputs.empty(count), BENCHMARK_ROW_BYTES=str(width))
    return Workload(name, title, task, count, peers)


def _csv(making: Making) -> Workload:
    return _table(making, "csv", (OURS, READ_CSV, RAY))


def _parquet(making: Making) -> Workload:
    return _table(making, "parquet", (OURS, RAY))


def _table(making: Making, kind: str, peers: tuple[str, ...]) -> Workload:
    rows = making.pick(2_000, 200_000, 2_000_000)
    task = making.script("logistic", making.inputs.table(kind, rows), making.pick(10_000, 1 << 20, 1 << 20))
    title = f"a table of {rows:,} rows and 12 columns as {kind}, 1 MB in a mini-batch, a logistic regression"
    return Workload(kind, title, replace(task, is_table=True), rows, peers)


MAKERS: dict[str, Callable[[Making], Workload]] = {
    "small": _small,
    "files": _files,
    "tensorflow": _tensorflow,
    "noop": _noop,
    "million": _million,
    "skew-spread": _skew_spread,
    "skew-last": _skew_last,
    "skew-one": _skew_one,
    "csv": _csv,
    "parquet": _parquet,
    "rows": _rows,
    "output": _output,
    "expand": _expand,
}
