# SPDX-License-Identifier: Apache-2.0
"""A table: what processes must know to read its files, the same for all mini-batches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import InvalidValueError, UnknownNameError
from airflow_parallelrun.worker.table import PATH_COLUMN

from .parquet_files import ParquetFiles
from .sql_query import SqlQuery
from .tabular_dataset import JSON_LINES, PARQUET, SQL
from .text_files import DelimitedFiles, JsonLinesFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.config import TableSize

    from .listing import FilePart, ListedFile
    from .tabular_dataset import TabularDataset

_FILES: dict[str, Any] = {JSON_LINES: JsonLinesFiles, PARQUET: ParquetFiles, SQL: SqlQuery}


class Table:
    """A table whose files have been looked at.

    :param dataset: the dataset
    :param files: its files, in order
    :param size: of mini-batches
    :raises DatasetError: when there is no row, or a file cannot be read
    :raises ConfigurationError: for a column that is not there, and files that are not of one table
    """

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        self._files = _FILES.get(dataset.format, DelimitedFiles)(dataset, files, size)
        self.is_query = dataset.is_query
        self._is_limited = dataset.is_limited
        self._first_row, self._row_count = dataset.first_row, dataset.row_count
        found = self._files.source()
        self.source = {
            "type": "tabular",
            "format": dataset.format,
            "partition_format": dataset.partition_format,
            "include_path": dataset.include_path,
            "condition": dataset.condition,
            **found,
            **_columns(dataset, found["columns"], self._files.unwanted_type),
        }

    def parts(self) -> Iterator[FilePart]:
        """Yield the files in parts of about the size of a mini-batch.

        :raises InputUnreadableError: when a file that must be read for it cannot be
        """
        parts: Iterator[FilePart] = self._files.parts()
        return _limited(parts, self._first_row, self._row_count) if self._is_limited else parts


def _limited(parts: Iterator[FilePart], first_row: int, row_count: int | None) -> Iterator[FilePart]:
    """Yield parts, whose rows are known, without some rows at the beginning and at the end."""
    left = sys.maxsize if row_count is None else row_count
    if not left:
        return
    for part in parts:
        rows = part.rows or 0
        first = min(first_row, rows)
        end = min(rows, first + left)
        first_row, left = first_row - first, left - (end - first)
        if end - first == rows:
            yield part
        elif end > first:
            yield part._replace(rows=end - first, only=(first, end))
        if not left:
            return


def _columns(
    dataset: TabularDataset, found: Sequence[tuple[str, str]], unwanted_type: str | None
) -> dict[str, Any]:
    """Return the columns to read, each with its type, and the names of those that run() gets, in order.

    :param found: the columns of the files
    :param unwanted_type: what those become that run() does not get; None: they are not read
    """
    own = [name for name, _ in found]
    if dataset.include_path and PATH_COLUMN in own:
        raise InvalidValueError("include_path", True, f"left out: the table has a column {PATH_COLUMN!r}")
    known = [*own, *(key for key in dataset.partition_keys if key not in own)]
    if dataset.include_path:
        known.append(PATH_COLUMN)
    for name in (*(dataset.columns or ()), *dataset.dropped_columns, *dataset.column_types):
        if name not in known:
            raise UnknownNameError("column", name, known)
    shown = dataset.columns or [name for name in known if name not in dataset.dropped_columns]
    key_types = {
        key: dataset.column_types[key] for key in known if key not in own and key in dataset.column_types
    }
    for key, kind in key_types.items():
        if kind not in ("string", "int64", "float64"):
            rule = "string, int64 or float64, for it is a partition key"
            raise InvalidValueError(f"the type of the column {key!r}", kind, rule)
    columns = [
        [name, dataset.column_types.get(name, kind) if name in shown else unwanted_type]
        for name, kind in found
        if name in shown or unwanted_type is not None
    ]
    return {"columns": columns, "shown": list(shown), "key_types": key_types}
