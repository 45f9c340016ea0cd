# SPDX-License-Identifier: Apache-2.0
"""The hand-written loop over a table, the limit: two processes read a half each, a mini-batch at a time."""

from __future__ import annotations

import io
import multiprocessing
import os
from typing import TYPE_CHECKING, Any

from benchmarks.programs.loop import finish
from benchmarks.programs.table_work import rows_in_mini_batch, table_file
from benchmarks.programs.work import load, read_work, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.programs.work import Work


def csv_half(path: str, work: Work, number: int) -> Iterator[Any]:
    """Yield one process's part of a CSV file: pieces of about a size, cut at line ends."""
    import pandas as pd

    size, step = os.path.getsize(path), work.mini_batch_size
    count = -(-size // step)
    with open(path, "rb") as file:
        columns = file.readline().decode().rstrip().replace('"', "").split(",")
        data = file.tell()

        def line_at(place: int) -> int:
            """Return where the first line begins at a byte or behind it."""
            if place <= data:
                return data
            file.seek(place - 1)
            file.readline()
            return file.tell()

        for piece in range(count * number // work.processes, count * (number + 1) // work.processes):
            first, end = line_at(piece * step), line_at(min(size, (piece + 1) * step))
            if first < end:
                file.seek(first)
                yield pd.read_csv(io.BytesIO(file.read(end - first)), header=None, names=columns)


def parquet_half(path: str, work: Work, number: int) -> Iterator[Any]:
    """Yield one process's part of a Parquet file: its row groups, some rows at a time."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    count = file.metadata.num_row_groups
    groups = list(range(count * number // work.processes, count * (number + 1) // work.processes))
    rows = rows_in_mini_batch(work, path)
    for batch in file.iter_batches(rows, row_groups=groups, use_threads=False):
        yield batch.to_pandas()


def do(work: Work, path: str, number: int, part: str) -> None:
    """Do one process's share."""
    loaded = load(work.script)
    half = parquet_half if path.endswith(".parquet") else csv_half
    with open(part, "w") as rows:
        for frame in half(path, work, number):
            write(rows, loaded.run(frame))


def main() -> None:
    """Run the loop."""
    work = read_work()
    path = table_file(work)
    context = multiprocessing.get_context("fork")
    parts = [f"{work.rows}.{number}" for number in range(work.processes)]
    processes = [
        context.Process(target=do, args=(work, path, number, part)) for number, part in enumerate(parts)
    ]
    for process in processes:
        process.start()
    finish(processes, work, parts)


if __name__ == "__main__":
    main()
