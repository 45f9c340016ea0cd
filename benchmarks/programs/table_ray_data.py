# SPDX-License-Identifier: Apache-2.0
"""Ray Data over a table: ``map_batches`` on a pool of actors that have called ``init()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from benchmarks.programs.ray_data import running
from benchmarks.programs.table_work import rows_in_mini_batch, table_file
from benchmarks.programs.work import load, read_work, write

if TYPE_CHECKING:
    import pyarrow


class Actor:
    """The script in a process of Ray's."""

    def __init__(self, path: str) -> None:
        self._script = load(path)

    def __call__(self, batch: pyarrow.Table) -> dict[str, Any]:
        """Run a mini-batch."""
        return {"row": self._script.run(batch.to_pandas())}


def main() -> None:
    """Run Ray."""
    work = read_work()
    path = table_file(work)
    with running(work):
        read = ray.data.read_parquet if path.endswith(".parquet") else ray.data.read_csv
        dataset = read(path).map_batches(
            Actor,
            fn_constructor_args=(work.script,),
            batch_size=rows_in_mini_batch(work, path),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=work.processes),
            # Else they take all CPUs, and none is left for the tasks that read: then it hangs.
            num_cpus=0.5,
        )
        with open(work.rows, "w") as file:
            for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
                write(file, batch["row"])


if __name__ == "__main__":
    main()
