# SPDX-License-Identifier: Apache-2.0
"""The Parquet files of a table: their columns and types, from the footers, and the cuts."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_parallelrun.exceptions import (
    ConfigurationError,
    EmptyInputError,
    InputUnreadableError,
    UnknownNameError,
)
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.worker.conditions import as_arrow, columns_of, leaves
from airflow_parallelrun.worker.errors import InputChangedError, LoadError

from .listing import FilePart
from .parquet_footer import read_footer
from .remote_file import ReadAhead, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.config import TableSize

    from .listing import ListedFile
    from .tabular_dataset import TabularDataset


_FOOTERS_AT_ONCE = 16


class _RowGroup(NamedTuple):
    number: int
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
        self._condition = dataset.condition
        self._files: list[tuple[ListedFile, list[_RowGroup]]] = []
        self._types: dict[str, str] = {}
        self._given = dataset.column_types
        self._first = ""
        # Of the files, each once: types may differ.
        self._schemas: list[Any] = []
        # Columns of whole numbers or truth values that have a missing value somewhere.
        self._holed: set[str] = set()
        for file, source in _sources(files):
            self._add(file, source)
        if not any(groups for _, groups in self._files):
            raise EmptyInputError(list(dataset.paths), "row")
        if self._condition is not None:
            self._check_condition(self._condition)

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
        """Yield the files in parts of about the size of a mini-batch; none has rows of two row groups.

        :raises ConfigurationError: when a value of the condition cannot be compared
        :raises InputUnreadableError: when a column of the condition cannot be read
        """
        wanted = None if self._condition is None else as_arrow(self._condition)
        for file, groups in self._files:
            fragments = {} if self._condition is None else _fragments(file, self._condition, wanted)
            start = 0
            for group in groups:
                rows: Any = range(group.rows)
                if wanted is not None:
                    rows = _kept(file, fragments.get(group.number), wanted)
                each = self._size.count
                if self._size.unit != "rows":
                    each = group.rows * self._size.count // max(1, group.bytes)
                count = -(-len(rows) // max(1, each))
                each = -(-len(rows) // max(1, count))
                for place in range(0, len(rows), max(1, each)):
                    part = rows[place : place + each]
                    first, end = start + int(part[0]), start + int(part[-1]) + 1
                    yield FilePart(file, first, end, group.bytes * len(part) // group.rows, len(part))
                start += group.rows

    def _check_condition(self, condition: list[Any]) -> None:
        """Check that every comparison can be made, in every file."""
        import pyarrow

        for name in columns_of(condition):
            if name not in self._types:
                raise UnknownNameError("column", name, self._types)
        for schema in self._schemas:
            for leaf in leaves(condition):
                # pyarrow casts what isin gets ("5" to 5, True to 1), where it refuses to compare that.
                each = [["==", leaf[1], value] for value in leaf[2]] if leaf[0] == "in" else []
                try:
                    for one in (leaf, *each):
                        schema.empty_table().filter(as_arrow(one))
                except (pyarrow.ArrowException, OverflowError) as error:
                    kind = schema.field(leaf[1]).type
                    raise ConfigurationError(
                        f"the filter cannot compare the column {leaf[1]!r}, which is {kind}, with "
                        f"{leaf[2]!r}: {error}"
                    ) from error

    def _add(self, file: ListedFile, source: Any) -> None:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(source) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
                groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
                sizes = [_RowGroup(n, g.num_rows, g.total_byte_size) for n, g in enumerate(groups)]
                self._files.append((file, [size for size in sizes if size.rows > 0]))
                if self._condition is not None and schema not in self._schemas:
                    self._schemas.append(schema)
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


def _sources(files: Sequence[ListedFile]) -> Iterator[tuple[ListedFile, Any]]:
    """Yield files, each with what pyarrow reads its footer from: the path, or the footer itself.

    :raises InputUnreadableError: when the footer of one in a store cannot be read
    """
    import pyarrow

    # Some at a time: one after the other each would take as long as the way to the store and back.
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        left = iter(files)
        while some := list(islice(left, 8 * _FOOTERS_AT_ONCE)):
            footers = pool.map(lambda file: _footer(file) if is_remote(file.path) else None, some)
            for file, footer in zip(some, footers, strict=True):
                yield file, file.path if footer is None else pyarrow.BufferReader(footer)


def _footer(file: ListedFile) -> bytes:
    with _told_as_unreadable(file):
        remote = RemoteFile(file)
        footer = read_footer(remote)
        remote.verify()
    return footer


def _fragments(file: ListedFile, condition: list[Any], wanted: Any) -> dict[int, Any]:
    """Return the row groups in which an expression may be true of a row, as their statistics say.

    :raises ConfigurationError: when a value cannot be compared with the statistics
    """
    import pyarrow
    from pyarrow import dataset
    from pyarrow.fs import LocalFileSystem

    with _told_as_unreadable(file):
        place: Any = (file.path, LocalFileSystem())
        if is_remote(file.path):
            place = (pyarrow.PythonFile(ReadAhead(RemoteFile(file)).open(), "r"),)
        whole = dataset.ParquetFileFormat().make_fragment(*place)
        schema = whole.physical_schema
    # Statistics leave NaN out, so a row group of 1.0 and NaN would have no row that is not 1.0; and those of
    # a 32-bit column are compared as 64 bits.
    if any(pyarrow.types.is_floating(schema.field(name).type) for name in columns_of(condition)):
        wanted = None
    try:
        found = whole.split_by_row_group(wanted)
    except pyarrow.ArrowException as error:
        raise ConfigurationError(f"the filter cannot be compared with {file.path}: {error}") from error
    return {fragment.row_groups[0].id: fragment for fragment in found}


def _kept(file: ListedFile, fragment: Any, wanted: Any) -> Any:
    """Return the rows of a row group that an expression is true of, by their places in it."""
    import numpy

    places, start = [numpy.zeros(0, "int64")], 0
    if fragment is not None:
        with _told_as_unreadable(file):
            for batch in fragment.scanner(columns={"kept": wanted}, use_threads=False).to_batches():
                mask = batch.column(0).fill_null(False).to_numpy(zero_copy_only=False)
                places.append(numpy.flatnonzero(mask) + start)
                start += len(mask)
    return numpy.concatenate(places)


@contextlib.contextmanager
def _told_as_unreadable(file: ListedFile) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, InputChangedError, LoadError, OSError) as error:
        raise InputUnreadableError(file.path, str(error)) from error


_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"})
_FLOATS = frozenset({"halffloat", "float", "double", "float64"})
# Types that may differ from file to file, and what all of them become.
_FAMILIES = (
    (_INTEGERS, "int64"),
    (_INTEGERS | _FLOATS, "float64"),
    (frozenset({"string", "large_string", "string_view"}), "string"),
)
