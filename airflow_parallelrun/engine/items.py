# SPDX-License-Identifier: Apache-2.0
"""The items of a plan while it is made: column by column, in some 100 bytes for each."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.plan import item_schema
from airflow_parallelrun.exceptions import InputUnreadableError

if TYPE_CHECKING:
    import pyarrow

    from airflow_parallelrun.datasets import ListedFile

# So many paths are Python's at a time; then they are a column of Arrow's, which is half as large.
_SLICE = 1 << 16
# In the column of times, where the store does not tell.
_UNKNOWN = -(1 << 63)


class ItemWriter:
    """Takes the items in the order of the plan, and makes ``mini_batches.parquet`` of them."""

    def __init__(self) -> None:
        self.weights = array("q")
        self.count = 0
        # Of each mini-batch: its input, and where its items begin.
        self._inputs = array("i")
        self._starts = array("q")
        self._sizes, self._mtimes = array("q"), array("q")
        self._paths: list[str] = []
        self._etags: list[str | None] = []
        self._full: list[tuple[pyarrow.Array, pyarrow.Array]] = []

    def begin(self, input_number: int) -> None:
        """Begin a mini-batch.

        :param input_number: its place in ``inputs``
        """
        self._inputs.append(input_number)
        self._starts.append(self.count)
        self.weights.append(0)

    def add(self, file: ListedFile, weight: int) -> None:
        """Add an item to the mini-batch."""
        self.count += 1
        self.weights[-1] += weight
        self._sizes.append(file.size)
        self._mtimes.append(_UNKNOWN if file.mtime_ns is None else file.mtime_ns)
        self._paths.append(file.path)
        self._etags.append(file.etag)
        if len(self._paths) == _SLICE:
            self._pack()

    def parquet(self, chunk_starts: list[int]) -> memoryview:
        """Return the file's content, one row group for each chunk.

        :param chunk_starts: the first mini-batch of each
        :raises InputUnreadableError: for a path that is no text
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = item_schema()
        self._pack()
        table = pa.table(self._columns(), schema=schema)
        starts = [*(self._starts[ordinal] for ordinal in chunk_starts), self.count]
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for start, end in pairwise(starts):
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)
        return memoryview(sink.getvalue())

    def _columns(self) -> dict[str, Any]:
        import numpy as np
        import pyarrow as pa

        mtimes = np.frombuffer(self._mtimes, np.int64)
        starts = np.frombuffer(self._starts, np.int64)
        each = np.append(starts[1:], self.count) - starts
        paths, etags = zip(*self._full, strict=True)
        return {
            "ordinal": np.repeat(np.arange(len(each)), each),
            "input": np.repeat(np.frombuffer(self._inputs, np.int32), each),
            "path": pa.chunked_array(paths),
            "size": np.frombuffer(self._sizes, np.int64),
            "mtime_ns": pa.array(mtimes, mask=mtimes == _UNKNOWN),
            "etag": pa.chunked_array(etags),
        }

    def _pack(self) -> None:
        """Make Arrow's of what is Python's."""
        import pyarrow as pa

        try:
            self._full.append((pa.array(self._paths, pa.string()), pa.array(self._etags, pa.string())))
        except UnicodeEncodeError as error:
            raise InputUnreadableError(ascii(error.object), "its name is not UTF-8") from error
        self._paths, self._etags = [], []
