# SPDX-License-Identifier: Apache-2.0
"""The hand-written loop, the limit: each process does its half of the list, and writes a file of its own.

With ``dynamic`` as second argument a process takes the next mini-batch when it has done one: fair where some
take longer.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.programs.work import load, read_work, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.process import BaseProcess

    from benchmarks.programs.work import Work

    MiniBatches = list[list[str]]


def half(mini_batches: MiniBatches, work: Work, number: int) -> Iterator[list[str]]:
    """Yield what one process does, if each does as much."""
    count = len(mini_batches)
    yield from mini_batches[count * number // work.processes : count * (number + 1) // work.processes]


def next_ones(mini_batches: MiniBatches, taken: Any) -> Iterator[list[str]]:
    """Yield what no other process has taken."""
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(mini_batches):
            return
        yield mini_batches[number]


def do(script: str, mini_batches: Iterator[list[str]], path: str) -> None:
    """Do one process's share."""
    loaded = load(script)
    with open(path, "w") as rows:
        for mini_batch in mini_batches:
            write(rows, loaded.run(mini_batch))


def main() -> None:
    """Run the loop."""
    work = read_work()
    mini_batches = work.mini_batches()
    context = multiprocessing.get_context("fork")
    taken = context.Value("q", 0) if sys.argv[2:] == ["dynamic"] else None
    parts = [f"{work.rows}.{number}" for number in range(work.processes)]
    processes = []
    for number, part in enumerate(parts):
        share = half(mini_batches, work, number) if taken is None else next_ones(mini_batches, taken)
        processes.append(context.Process(target=do, args=(work.script, share, part)))
        processes[-1].start()
    finish(processes, work, parts)


def finish(processes: Sequence[BaseProcess], work: Work, parts: Sequence[str]) -> None:
    """Wait for processes, and put the files that they have written together."""
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(f"a process ended with exit status {process.exitcode}")
    with open(work.rows, "wb") as rows:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, rows, 1 << 20)
            os.unlink(part)


if __name__ == "__main__":
    main()
