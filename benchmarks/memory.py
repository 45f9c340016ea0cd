# SPDX-License-Identifier: Apache-2.0
"""What split, a node and reduce need for many mini-batches: memory, and time for each mini-batch.

``python -m benchmarks.memory [MINI_BATCHES]``, by default 1,000,000 of one empty file each, on one node with
two processes, whose script does nothing. The files lie in the temporary folder (``TMPDIR``), which should be
on a disk with room for two million files and 5 GB.

Each step runs in a process of its own. Its peak memory is what the kernel says (VmHWM), and the highest of
samples of its proportional share (PSS); the node's worker processes are shown apart. CPU time is the step's
own, without its worker processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.reduce import reduce
from airflow_parallelrun.engine.split import RunRequest, split

if TYPE_CHECKING:
    from collections.abc import Iterable

_MINI_BATCHES = 1_000_000
_FILES_PER_FOLDER = 1_000
_SAMPLE_S = 0.1
_SLOW_SYNC_S = 1.0
_STEPS = ("split", "node", "reduce")
_HEADINGS = ("RSS", "PSS", "worker", "seconds", "wall µs", "CPU µs", "output")
_WIDTH = 9


@dataclass(frozen=True)
class _Variant:
    """A run to measure.

    :param run: the body of the script's run()
    :param flat: all files in one folder, not spread over many
    :param slow: each flush of the committer takes a second longer
    :param config: beyond what all have
    """

    run: str = "return names"
    flat: bool = False
    slow: bool = False
    config: dict[str, Any] = field(default_factory=dict)


_VARIANTS = {
    "all succeed": _Variant(),
    "all fail": _Variant("raise ValueError(f'{names} is broken')", config={"run_max_try": 1}),
    "one folder": _Variant(flat=True),
    "slow store": _Variant(slow=True),
    "2 kB rows": _Variant("return [name.ljust(2000) for name in names]"),
    "any order": _Variant(config={"append_row_order": "any"}),
}


def main(count: int) -> None:
    """Measure every variant and print the table."""
    with tempfile.TemporaryDirectory(prefix="parallelrun-benchmark-") as name:
        root = Path(name)
        inputs = {flat: _make_files(root / f"flat-{flat}", count, flat) for flat in (False, True)}
        print(f"{count:,} mini-batches; MB of 10^6 bytes; µs for each mini-batch")
        print(" " * 20 + "".join(heading.rjust(_WIDTH) for heading in _HEADINGS))
        for variant in _VARIANTS:
            _measure(root, variant, inputs[_VARIANTS[variant].flat], count)


def _make_files(folder: Path, count: int, flat: bool) -> Path:
    for number in range(count):
        if number % (count if flat else _FILES_PER_FOLDER) == 0:
            parent = folder / f"{number:07d}"
            parent.mkdir(parents=True)
        os.close(os.open(f"{parent}/{number:07d}.txt", os.O_CREAT | os.O_WRONLY))
    return folder


def _measure(root: Path, name: str, inputs: Path, count: int) -> None:
    folder = root / "run"
    folder.mkdir()
    (folder / "noop.py").write_text(
        "import os\ndef run(mini_batch):\n"
        f"    names = [os.path.basename(path) for path in mini_batch]\n    {_VARIANTS[name].run}\n"
    )
    for step in _STEPS:
        figures = _watch([sys.executable, "-m", __spec__.name, step, name, str(folder), str(inputs)])
        micros = 1e6 / count
        row = [
            *(f"{figures[part] / 1e6:.0f}" for part in ("rss", "pss", "worker")),
            f"{figures['wall']:.1f}",
            f"{figures['wall'] * micros:.2f}",
            f"{figures['cpu'] * micros:.2f}",
            f"{figures['output'] / 1e6:.0f}",
        ]
        print(f"{name:<13}{step:<7}" + "".join(cell.rjust(_WIDTH) for cell in row), flush=True)
    shutil.rmtree(folder)


def _watch(command: list[str]) -> dict[str, float]:
    """Run a step; return its figures and what was seen of it from outside."""
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        pss = worker = 0
        while process.poll() is None:
            time.sleep(_SAMPLE_S)
            pss = max(pss, _kilobytes(process.pid, "smaps_rollup", "Pss:"))
            for child in _children(process.pid):
                worker = max(worker, _kilobytes(child, "status", "VmHWM:"))
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        return {**json.load(out), "pss": pss * 1024, "worker": worker * 1024}


def _kilobytes(pid: int | str, file: str, field_name: str) -> int:
    """Return a figure of a process; 0 when it is gone."""
    for line in _proc(f"{pid}/{file}"):
        if line.startswith(field_name):
            return int(line.split()[1])
    return 0


def _children(pid: int) -> Iterable[int]:
    return map(int, " ".join(_proc(f"{pid}/task/{pid}/children")).split())


def _proc(path: str) -> list[str]:
    try:
        return Path("/proc", path).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def step(name: str, variant: str, folder: str, inputs: str) -> None:
    """Run one step and print its figures as JSON."""
    started = time.monotonic()
    written, plan_file = None, Path(folder, "run_dir")
    if name == "split":
        plan_file.write_text(split(_request(_VARIANTS[variant], folder, inputs)).run_dir)
    elif name == "node":
        if _VARIANTS[variant].slow:
            _slow_down()
        Node(plan_file.read_text(), 0).run()
    else:
        written = reduce_any(plan_file.read_text())
    figures = {
        "wall": time.monotonic() - started,
        "cpu": time.process_time(),
        "rss": _kilobytes("self", "status", "VmHWM:") * 1024,
        "output": os.path.getsize(written) if written else 0,
    }
    print(json.dumps(figures))


def reduce_any(run_dir: str) -> str | None:
    """Reduce; a run in which all fail has nothing to append, which is its verdict."""
    from airflow_parallelrun.exceptions import NothingToAppendError

    try:
        return reduce(run_dir).output_file
    except NothingToAppendError:
        return None


def _request(variant: _Variant, folder: str, inputs: str) -> RunRequest:
    config = ParallelRunConfig(
        environment=Environment(),
        source_directory=folder,
        entry_script="noop.py",
        error_threshold=-1,
        output_action="append_row",
        compute_target=ComputeTarget(),
        mini_batch_size=1,
        node_count=1,
        process_count_per_node=2,
        **variant.config,
    )
    return RunRequest(
        config=config,
        inputs=(FileDataset.from_files(inputs).as_mount(),),
        output=os.path.join(folder, "output"),
        owner="benchmark",
    )


def _slow_down() -> None:
    """Make each flush of the committer take as long as on a store that can hardly follow."""
    fdatasync = os.fdatasync

    def slow(fd: int) -> None:
        time.sleep(_SLOW_SYNC_S)
        fdatasync(fd)

    os.fdatasync = slow


if __name__ == "__main__":
    if len(sys.argv) > 2:
        step(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) == 2 else _MINI_BATCHES)
