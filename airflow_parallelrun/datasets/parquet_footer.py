# SPDX-License-Identifier: Apache-2.0
"""The footers of Parquet files in stores: where in a file the columns of a row group are."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.worker.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .remote_file import RemoteFile

# Most footers are shorter, and come with one request then.
_FOOTER_BYTES = 1 << 16
_MAGIC = b"PAR1"
# Some writers tell lengths of column chunks that are short by so much, and pyarrow reads on.
_CHUNK_PADDING = 100


class Footer(NamedTuple):
    """What a Parquet file says of itself.

    :param data: the footer, up to the end of the file
    :param starts: the first row of each row group
    :param chunks: of each row group the column chunks: a column's path in the schema, and where they are
    """

    data: bytes
    starts: list[int]
    chunks: list[list[tuple[str, int, int]]]

    def ranges(self, group: int, wanted: Iterable[str], size: int) -> list[tuple[int, int]]:
        """Return where some columns of a row group are.

        :param size: of the file, in bytes
        """
        # Of a column of structures or lists the chunks are named by its name, a dot, and more.
        prefixes = tuple(f"{name}." for name in wanted)
        names = {*wanted}
        return [
            (start, min(end + _CHUNK_PADDING, size))
            for name, start, end in self.chunks[group]
            if name in names or name.startswith(prefixes)
        ]


def footer_of(file: RemoteFile) -> Footer:
    """Read the footer of a Parquet file.

    :raises InputChangedError: when it is not what was listed
    :raises LoadError: when it is no Parquet file, or cannot be read
    """
    try:
        return _parsed(file, read_footer(file))
    except LoadError:
        file.verify()  # a file that has changed is not damaged
        raise


def read_footer(file: RemoteFile) -> bytes:
    """Return the footer of a Parquet file, up to the end of the file.

    :raises InputChangedError: when it is not what was listed
    :raises LoadError: when it is no Parquet file, or cannot be read
    """
    size = file.size
    data = file.read(max(0, size - _FOOTER_BYTES), size)
    if len(data) < 3 * len(_MAGIC) or not data.endswith(_MAGIC):
        raise LoadError(f"{file.url} is not a Parquet file: it does not end as one")
    length = int.from_bytes(data[-8:-4], "little") + 8
    if length > size:
        raise LoadError(f"{file.url} is not a Parquet file: its footer would be longer than the file")
    if length > len(data):
        data = file.read(size - length, size - len(data)) + data
    return data[-length:]


def _parsed(file: RemoteFile, data: bytes) -> Footer:
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(pyarrow.BufferReader(data))
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [[_chunk(group.column(place)) for place in range(group.num_columns)] for group in groups]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise LoadError(f"{file.url} is not a Parquet file that can be read: {error}") from error
    return Footer(data, list(accumulate((group.num_rows for group in groups), initial=0)), chunks)


def _chunk(column: Any) -> tuple[str, int, int]:
    start: int = column.data_page_offset
    if column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    return column.path_in_schema, start, start + column.total_compressed_size
