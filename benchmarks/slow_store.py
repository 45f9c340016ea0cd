# SPDX-License-Identifier: Apache-2.0
"""How well the copying of inputs from a store and the work on them overlap.

``python -m benchmarks.slow_store [MINI_BATCHES]``, by default 120.

The store is in memory and as slow as it is told: all who read at once share its rate. It needs 0.25 s for
a mini-batch of 4 files and 4 MB, and so do two processes, in which run() sleeps for 0.5 s.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_parallelrun.datasets import DatasetInput

_FILES, _FILE_BYTES = 4, 1_000_000
_PROCESSES, _RUN_S = 2, 0.5
_MINI_BATCH_S = _RUN_S / _PROCESSES
_BYTES_PER_S = _FILES * _FILE_BYTES / _MINI_BATCH_S
_SCRIPT = f"""
import time
def run(mini_batch):
    time.sleep({_RUN_S})
    return [len(open(path, "rb").read()) for path in mini_batch]
"""
_BLOCK_BYTES = 1 << 15
_URL = "memory://slow@/input"
# As many as ours has.
_READERS = 32


@contextmanager
def _store(count: int) -> Iterator[Any]:
    from fsspec.implementations.memory import MemoryFileSystem

    from airflow_parallelrun.filesystems import provided

    class SlowStore(MemoryFileSystem):  # type: ignore[misc]
        cachable = False
        line = threading.Lock()

        def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
            data: bytes = super().cat_file(path, *args, **kwargs)
            # Block by block, so that nobody waits until another one has all of a file.
            for _ in range(0, len(data), _BLOCK_BYTES):
                with self.line:
                    time.sleep(_BLOCK_BYTES / _BYTES_PER_S)
            return data

    store = SlowStore()
    for number in range(count):
        store.pipe_file(f"/input/{number:06d}", bytes(_FILE_BYTES))
    with provided({("memory", "slow"): store}):
        yield store


def main(mini_batches: int) -> None:
    """Measure, and print a line for each way."""
    count = mini_batches * _FILES
    with tempfile.TemporaryDirectory(prefix="parallelrun-benchmark-") as name, _store(count) as store:
        root = Path(name)
        (root / "source").mkdir()
        (root / "source" / "score.py").write_text(_SCRIPT)
        delivered_s = _timed(lambda: _download(store, range(count), root / "copy"))
        local_s = _timed(lambda: _job(root, str(root / "copy"), "local"))
        ours_s = _timed(lambda: _job(root, _URL, "ours"))
        in_turn_s = _timed(lambda: _in_turn(store, mini_batches, root / "again"))
    slower = max(delivered_s, local_s)
    print(
        f"{mini_batches} mini-batches: delivered in {delivered_s:.1f} s, run from a disk in {local_s:.1f} s"
    )
    for what, seconds in (
        ("ours", ours_s),
        ("download all, then run", delivered_s + local_s),
        ("each downloaded, then run", in_turn_s),
    ):
        print(f"{what}: {seconds:.1f} s, {seconds / slower:.2f} times the slower of the two")


def _timed(what: Any) -> float:
    began = time.monotonic()
    what()
    return time.monotonic() - began


def _download(store: Any, numbers: range, folder: Path) -> None:
    folder.mkdir(exist_ok=True)

    def fetch(number: int) -> None:
        (folder / f"{number:06d}").write_bytes(store.cat_file(f"/input/{number:06d}"))

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(fetch, numbers))


def _in_turn(store: Any, mini_batches: int, folder: Path) -> None:
    for number in range(mini_batches):
        _download(store, range(number * _FILES, (number + 1) * _FILES), folder)
        time.sleep(_MINI_BATCH_S)


def _job(root: Path, path: str, name: str) -> None:
    from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
    from airflow_parallelrun.datasets import FileDataset
    from airflow_parallelrun.engine.node import Node
    from airflow_parallelrun.engine.reduce import reduce
    from airflow_parallelrun.engine.split import RunRequest, split

    config = ParallelRunConfig(
        environment=Environment(),
        source_directory=str(root / "source"),
        entry_script="score.py",
        error_threshold=0,
        output_action="append_row",
        compute_target=ComputeTarget(),
        node_count=1,
        process_count_per_node=_PROCESSES,
        mini_batch_size=_FILES,
    )
    inputs: tuple[DatasetInput, ...] = (FileDataset.from_files(path).as_mount(),)
    output = str(root / name)
    run_dir = split(RunRequest(config=config, inputs=inputs, output=output, owner="benchmark")).run_dir
    Node(run_dir, 0).run()
    reduce(run_dir)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 120)
