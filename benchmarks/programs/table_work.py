# SPDX-License-Identifier: Apache-2.0
"""What the programs for tables share: the one file, and how many of its rows are a mini-batch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.programs.work import Work


def table_file(work: Work) -> str:
    """Return the path of the table."""
    ((path,),) = [
        [os.path.join(folder, name) for name in names] for folder, _, names in os.walk(work.folder) if names
    ]
    return path


def rows_in_mini_batch(work: Work, path: str) -> int:
    """Return about how many rows are as many bytes as a mini-batch is to have."""
    if path.endswith(".parquet"):
        from pyarrow import parquet

        metadata = parquet.read_metadata(path)
        size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        return max(1, metadata.num_rows * work.mini_batch_size // size)
    with open(path, "rb") as file:
        beginning = file.read(1 << 20)
    return max(1, beginning.count(b"\n") * work.mini_batch_size // len(beginning))
