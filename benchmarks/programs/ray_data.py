# SPDX-License-Identifier: Apache-2.0
"""Ray Data: ``map_batches`` over the file names, on a pool of actors that have called ``init()``."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, Any

import ray

from benchmarks.programs.work import load, read_work, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.programs.work import Work

# Ray deals out blocks: enough of them for the actors to end at the same time, few enough to be cheap.
_BLOCKS = 200


class Actor:
    """The script in a process of Ray's."""

    def __init__(self, path: str) -> None:
        self._script = load(path)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run a mini-batch."""
        return {"row": self._script.run(batch["item"].tolist())}


def main() -> None:
    """Run Ray."""
    work = read_work()
    with running(work):
        predict(work)


@contextlib.contextmanager
def running(work: Work) -> Iterator[None]:
    """Run Ray, and leave nothing of it; its sockets have long names, so the folder has a short one."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            num_cpus=work.processes,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()


def predict(work: Work) -> None:
    """Run the script over all files."""
    mini_batches = work.mini_batches()
    paths = [path for mini_batch in mini_batches for path in mini_batch]
    dataset = ray.data.from_items(paths, override_num_blocks=min(_BLOCKS, len(mini_batches))).map_batches(
        Actor,
        fn_constructor_args=(work.script,),
        batch_size=work.mini_batch_size,
        compute=ray.data.ActorPoolStrategy(size=work.processes),
    )
    with open(work.rows, "w") as file:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            write(file, batch["row"])


if __name__ == "__main__":
    main()
