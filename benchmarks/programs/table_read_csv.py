# SPDX-License-Identifier: Apache-2.0
"""What most people write: one process, and ``pandas.read_csv`` with a ``chunksize``."""

from __future__ import annotations

from benchmarks.programs.table_work import rows_in_mini_batch, table_file
from benchmarks.programs.work import load, read_work, write


def main() -> None:
    """Run the loop."""
    import pandas as pd

    work = read_work()
    path = table_file(work)
    script = load(work.script)
    with open(work.rows, "w") as rows, pd.read_csv(path, chunksize=rows_in_mini_batch(work, path)) as chunks:
        for frame in chunks:
            write(rows, script.run(frame))


if __name__ == "__main__":
    main()
