# SPDX-License-Identifier: Apache-2.0
"""How long a large output takes to be put together.

``python -m benchmarks.large_output [STORE] [GIGABYTES]``, by default ``local 10``.

STORE is ``local`` or ``azure``: Azurite, started here and keeping what it gets on the disk. Rows of 1 MB, in
the order of the plan, written by two processes; then reduce alone, in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo.azurite import ACCOUNT, LISTENS, command, connection_string

_ROW_BYTES = 1_000_000
_SCRIPT = f"def run(mini_batch):\n    return ['x' * {_ROW_BYTES - 1} for _ in mini_batch]\n"


def main(store: str, gigabytes: float) -> None:
    """Measure, and print a line."""
    rows = int(gigabytes * 1e9 / _ROW_BYTES)
    with tempfile.TemporaryDirectory(prefix="parallelrun-benchmark-") as name:
        root = Path(name)
        (root / "input").mkdir()
        for number in range(rows):
            (root / "input" / f"{number:06d}").touch()
        (root / "score.py").write_text(_SCRIPT)
        if store == "local":
            _measure(root, str(root / "output"), rows)
            return
        azurite = _start_azurite(root)
        try:
            _measure(root, "abfs://azurite@output/run", rows)
        finally:
            azurite.terminate()
            azurite.wait()


def _measure(root: Path, output: str, rows: int) -> None:
    began = time.monotonic()
    run_dir = _step("split", str(root), output).strip().splitlines()[-1]
    _step("node", run_dir)
    written = time.monotonic()
    peak_mb = int(_step("reduce", run_dir))
    done = time.monotonic()
    size, where = rows * _ROW_BYTES, output.partition("://")[0] if "://" in output else "files"
    print(
        f"{size / 1e9:.1f} GB to {where}: written in {written - began:.1f} s "
        f"({size / (written - began) / 1e9:.2f} GB/s), put together in {done - written:.1f} s "
        f"({size / (done - written) / 1e9:.2f} GB/s), peak of reduce {peak_mb} MB"
    )


def _step(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large_output", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _split(root: str, output: str) -> None:
    from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
    from airflow_parallelrun.datasets import FileDataset
    from airflow_parallelrun.engine.split import RunRequest, split

    config = ParallelRunConfig(
        environment=Environment(),
        source_directory=root,
        entry_script="score.py",
        error_threshold=0,
        output_action="append_row",
        compute_target=ComputeTarget(),
        node_count=1,
        process_count_per_node=2,
        mini_batch_size=4,
    )
    files = FileDataset.from_files(f"{root}/input").as_mount()
    print(split(RunRequest(config=config, inputs=(files,), output=output, owner="benchmark")).run_dir)


def _start_azurite(root: Path) -> subprocess.Popen[str]:
    from airflow_parallelrun.filesystems import locate

    azurite = subprocess.Popen(
        command("--location", str(root / "azurite")), stdout=subprocess.PIPE, text=True
    )
    assert azurite.stdout is not None
    url = next(found[1] for line in azurite.stdout if (found := LISTENS.search(line)))
    options = {"connection_string": connection_string(f"{url}/{ACCOUNT}")}
    os.environ["PARALLELRUN_CONNECTION_AZURITE"] = json.dumps(options)
    locate("abfs://azurite@output").fs.mkdir("output")
    return azurite


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["split", root, output]:
            _split(root, output)
        case ["node", run_dir]:
            from airflow_parallelrun.engine.node import Node

            Node(run_dir, 0).run()
        case ["reduce", run_dir]:
            from airflow_parallelrun.engine.reduce import reduce

            reduce(run_dir)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
        case [store, *more]:
            main(store, float(more[0]) if more else 10)
        case _:
            main("local", 10)
