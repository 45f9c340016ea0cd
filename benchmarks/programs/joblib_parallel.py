# SPDX-License-Identifier: Apache-2.0
"""joblib.Parallel with its own processes (loky) and its own way to bundle short tasks."""

from __future__ import annotations

from typing import Any

import joblib

from benchmarks.programs.work import load, read_work, write

_script: Any = None


def run(path: str, mini_batch: list[str]) -> list[Any]:
    """Run one mini-batch; the first one in a process loads the script."""
    global _script
    if _script is None:
        _script = load(path)
    rows: list[Any] = _script.run(mini_batch)
    return rows


def main() -> None:
    """Run joblib."""
    # By its name, so that the processes import this module, and keep the script in it.
    from benchmarks.programs.joblib_parallel import run as task

    work = read_work()
    tasks = (joblib.delayed(task)(work.script, mini_batch) for mini_batch in work.mini_batches())
    with open(work.rows, "w") as file:
        for rows in joblib.Parallel(work.processes, return_as="generator_unordered")(tasks):
            write(file, rows)


if __name__ == "__main__":
    main()
