# SPDX-License-Identifier: Apache-2.0
"""The Parquet files of a table: their columns and types, from the footers, and the cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.exceptions import ConfigurationError, EmptyInputError, InputUnreadableError

from .listing import FilePart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.config import TableSize

    from .listing import ListedFile
    from .tabular_dataset import TabularDataset


class _RowGroup(NamedTuple):
    rows: int
    bytes: int


class ParquetFiles:
    """The files of a dataset of Parquet files.

    :param dataset: the dataset
    :param files: its files, in order
    :param size: of mini-batches
    :raises EmptyInputError: when no file has a row
    :raises InputUnreadableError: when one is no Parquet file
    :raises ConfigurationError: when they do not have the same columns, or of types that are not one
    """

    #: What becomes of columns that nobody wants: they are not read.
    unwanted_type = None

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        self._size = size
        self._files: list[tuple[ListedFile, list[_RowGroup]]] = []
        self._types: dict[str, str] = {}
        self._given = dataset.column_types
        self._first = ""
        # Columns of whole numbers or truth values that have a missing value somewhere.
        self._holed: set[str] = set()
        for file in files:
            self._add(file)
        if not any(groups for _, groups in self._files):
            raise EmptyInputError(list(dataset.paths), "row")

    def source(self) -> dict[str, Any]:
        """Return what processes need to know to read a part."""
        columns = []
        for name, kind in self._types.items():
            if name in self._holed and name not in self._given:
                # As pandas has it where a value is missing; so the others must have it, too.
                kind = "object" if kind == "bool" else "float64"
            columns.append([name, kind if kind in ("object", "float64", "int64", "string") else ""])
        return {"columns": columns}

    def parts(self) -> Iterator[FilePart]:
        """Yield the files in parts of about the size of a mini-batch; none has rows of two row groups."""
        for file, groups in self._files:
            start = 0
            for group in groups:
                each = self._size.count
                if self._size.unit != "rows":
                    each = group.rows * self._size.count // max(1, group.bytes)
                count = -(-group.rows // max(1, each))
                each = -(-group.rows // count)
                for first in range(start, start + group.rows, each):
                    end = min(first + each, start + group.rows)
                    yield FilePart(file, first, end, group.bytes * (end - first) // group.rows, end - first)
                start += group.rows

    def _add(self, file: ListedFile) -> None:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(file.path) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
                groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
                self._files.append(
                    (file, [_RowGroup(g.num_rows, g.total_byte_size) for g in groups if g.num_rows > 0])
                )
                self._find_holes(schema, groups)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputUnreadableError(file.path, f"it is no Parquet file: {error}") from error
        types = {field.name: str(field.type) for field in schema}
        if not self._types:
            self._types, self._first = types, file.path
        elif types.keys() != self._types.keys():
            other = next(iter(types.keys() ^ self._types.keys()))
            raise ConfigurationError(
                f"{file.path} and {self._first} do not have the same columns: {other!r} is in one of them. "
                "Give them in two inputs."
            )
        for name, kind in types.items():
            self._types[name] = self._either(file, name, self._types[name], kind)

    def _either(self, file: ListedFile, name: str, one: str, other: str) -> str:
        """Return the type that has the values of both."""
        if one == other or name in self._given:
            return one
        for family, common in _FAMILIES:
            if {one, other} <= family:
                return common
        raise ConfigurationError(
            f"the column {name!r} is {one} in {self._first} and {other} in {file.path}. "
            f"Say what it is to be: set_column_types={{{name!r}: …}}."
        )

    def _find_holes(self, schema: Any, groups: Sequence[Any]) -> None:
        import pyarrow

        numbers = {
            field.name
            for field in schema
            if pyarrow.types.is_integer(field.type) or pyarrow.types.is_boolean(field.type)
        }
        for group in groups:
            for place in range(group.num_columns):
                column = group.column(place)
                if column.path_in_schema in numbers:
                    found = column.statistics if column.is_stats_set else None
                    if found is None or not found.has_null_count or found.null_count:
                        self._holed.add(column.path_in_schema)


_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"})
_FLOATS = frozenset({"halffloat", "float", "double", "float64"})
# Types that may differ from file to file, and what all of them become.
_FAMILIES = (
    (_INTEGERS, "int64"),
    (_INTEGERS | _FLOATS, "float64"),
    (frozenset({"string", "large_string", "string_view"}), "string"),
)
