# SPDX-License-Identifier: Apache-2.0
"""The output as one Parquet file, of the Arrow streams that the segments hold; see ``worker/arrow.py``."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_parallelrun.engine import names
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

    from airflow_parallelrun.engine.store import Store

# A reader skips row groups, and has one of them in memory: many small mini-batches make one.
ROW_GROUP_ROWS = 1 << 17
# As Arrow has them in memory; rows that hold pictures are large.
ROW_GROUP_BYTES = 64 << 20
# So much is taken from the pieces at once; messages of small mini-batches are far smaller.
_BUFFER_BYTES = 1 << 17


def write(file: BinaryIO, store: Store, pieces: Iterator[bytes]) -> None:
    """Write the rows of all mini-batches.

    :param store: the run directory, for the schema
    :param pieces: streams, one behind the other, cut anywhere
    :raises StorageError: when these are damaged
    """
    import pyarrow
    from pyarrow import parquet

    schema = _schema(store)
    try:
        with parquet.ParquetWriter(file, schema) as writer:
            for group in _groups(_batches(pieces), schema):
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
    except pyarrow.ArrowException as error:
        raise StorageError(store.path(names.SEGMENTS), f"cannot be read as Arrow streams: {error}") from error


def _schema(store: Store) -> Any:
    """Return the last version of the schema: every column that has a value in any row has a type in it."""
    from pyarrow import ipc, py_buffer

    version = 0
    while store.exists(names.header(version + 1)):
        version += 1
    return ipc.read_schema(py_buffer(base64.b64decode(store.read(names.header(version)))))


def _groups(batches: Iterator[Any], schema: Any) -> Iterator[Any]:
    """Yield tables of rows that are gathered until there are enough for a row group."""
    from pyarrow import Table

    gathered: list[Any] = []
    rows = size = 0
    for batch in batches:
        # Where a column had no value yet, it had no type.
        gathered.append(batch if batch.schema.equals(schema) else batch.cast(schema))
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield Table.from_batches(gathered, schema)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield Table.from_batches(gathered, schema)


def _batches(pieces: Iterator[bytes]) -> Iterator[Any]:
    from pyarrow import PythonFile, ipc

    source = io.BufferedReader(_Pieces(pieces), _BUFFER_BYTES)
    file = PythonFile(source, mode="r")
    while source.peek(1):
        yield from ipc.open_stream(file)


class _Pieces(io.RawIOBase):
    """Bytes that come in pieces, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
