# SPDX-License-Identifier: Apache-2.0
"""multiprocessing.Pool.imap_unordered, a mini-batch at a time, as retries and time-outs would need it."""

from __future__ import annotations

import multiprocessing
from typing import Any

from benchmarks.programs.work import load, read_work, write

_script: Any = None


def init(path: str) -> None:
    """Load the script in a process of the pool."""
    global _script
    _script = load(path)


def run(mini_batch: list[str]) -> list[Any]:
    """Run one mini-batch there."""
    rows: list[Any] = _script.run(mini_batch)
    return rows


def main() -> None:
    """Run the pool."""
    work = read_work()
    context = multiprocessing.get_context("fork")
    with open(work.rows, "w") as file, context.Pool(work.processes, init, (work.script,)) as pool:
        for rows in pool.imap_unordered(run, work.mini_batches()):
            write(file, rows)


if __name__ == "__main__":
    main()
