# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet files as DataFrames; a process decodes each row group once, a batch of it in memory."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .conditions import Condition, as_arrow, columns_of
from .delimited import BadRow, Parsed, to_datetime
from .errors import LoadError

# Rows that are decoded at a time, unless a mini-batch has more: fewer take longer, more take memory.
_BATCH_ROWS = 1 << 12
_BUFFER_BYTES = 1 << 18
# No name of a column has a NUL character.
_PLACE = "\0"


class ParquetRows:
    """The rows of one file, read forwards.

    Mini-batches come to a process in the order of the plan, with gaps where other processes have some. So a
    row group is decoded from where it was left; only a step back begins it again.

    :param path: the file
    :param columns: names and types of the columns to read; "" is the type that it has
    :param condition: which rows are meant; None for all
    :param pandas: the module
    :param place: where it is; default *path*; that is for messages otherwise
    :raises LoadError: when it is no Parquet file, or lacks one of the columns
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[Tuple[str, str]],
        condition: Optional[Condition],
        pandas: Any,
        place: Optional[str] = None,
    ) -> None:
        import pyarrow
        from pyarrow import parquet

        self._path = path
        self._pandas = pandas
        self._columns = columns
        self._pyarrow = pyarrow
        self._errors = pyarrow.ArrowException, OSError, ValueError
        try:
            # Else all of a row group is read at once, and stays until the last of it is decoded.
            self._file = parquet.ParquetFile(place or path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except self._errors as error:
            raise LoadError(f"{path} is not a Parquet file that can be read: {error}") from error
        self._wanted = list(dict.fromkeys([*(name for name, _ in columns), *columns_of(condition)]))
        self._condition = None if condition is None else as_arrow(condition)
        for name in self._wanted:
            if name not in self._file.schema_arrow.names:
                raise LoadError(f"{path} has no column {name!r}, which the dataset has")
        metadata = self._file.metadata
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = list(accumulate(sizes, initial=0))
        # The row group that is being read: what comes, what is here, and where that begins and ends.
        self._batches: Any = iter(())
        self._batch: Any = None
        self._first = self._end = self._group_end = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, first: int, end: int) -> Tuple[Parsed, Sequence[int]]:
        """Return rows, and the place of each in the file.

        :param first: the first one, counted from the beginning of the file
        :param end: the one behind the last one
        :raises LoadError: when they cannot be decoded
        """
        pieces: List[Any] = []
        at = first
        try:
            while at < end:
                batch = self._next(at, end)
                pieces.append(batch if self._condition is None else self._kept(batch, at))
                at += len(batch)
            if self._condition is None:
                return self._parsed(self._pyarrow.Table.from_batches(pieces)), range(first, end)
            kept = self._pyarrow.concat_tables(pieces)
            return self._parsed(kept.drop_columns([_PLACE])), kept.column(_PLACE).to_pylist()
        except StopIteration as error:
            raise LoadError(f"{self._path}, rows {first} to {end}: there are fewer") from error
        except (*self._errors, KeyError) as error:
            raise LoadError(f"{self._path}, rows {first} to {end}: {error}") from error

    def _kept(self, batch: Any, first: int) -> Any:
        """Return the rows that are meant, with their places in the file."""
        places = self._pyarrow.array(range(first, first + len(batch)), "int64")
        table = self._pyarrow.Table.from_batches([batch]).append_column(_PLACE, places)
        return table.filter(self._condition)

    def _next(self, first: int, end: int) -> Any:
        """Return rows from one on, as far as the batch has them that it is in."""
        if not self._first <= first < self._group_end:
            group = bisect_right(self._starts, first) - 1
            self._first = self._end = self._starts[group]
            self._group_end = self._starts[group + 1]
            self._batches = self._file.iter_batches(
                # Of rows that are far apart most are left out.
                batch_size=max(_BATCH_ROWS, end - first) if self._condition is None else _BATCH_ROWS,
                row_groups=[group],
                columns=self._wanted,
                use_threads=False,
            )
        while first >= self._end:
            self._batch = next(self._batches)
            self._first = self._end
            self._end += len(self._batch)
        return self._batch.slice(first - self._first, end - first)

    def _parsed(self, table: Any) -> Parsed:
        if not self._columns:  # what is wanted of the rows is in the path alone
            return Parsed(self._pandas.DataFrame(index=range(len(table))), len(table), [])
        arrays: List[Any] = []
        bad: Dict[int, BadRow] = {}
        for name, kind in self._columns:
            column = table.column(name)
            if self._pyarrow.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)  # else its categories differ from batch to batch
            column, unfit = self._cast(column, kind)
            arrays.append(column)
            for place, why in unfit.items():
                bad.setdefault(place, BadRow(place, name, why))
        made = self._pyarrow.Table.from_arrays(arrays, names=[name for name, _ in self._columns])
        if bad:
            made = made.filter(self._pyarrow.array([place not in bad for place in range(len(made))]))
        frame = made.to_pandas()
        for name, kind in self._columns:
            if kind == "object":  # truth values with missing ones among them, here or elsewhere
                frame[name] = frame[name].astype(object)
        rows = [bad[place] for place in sorted(bad)]
        return Parsed(frame if len(frame) else None, len(table), rows)

    def _cast(self, column: Any, kind: str) -> Tuple[Any, Dict[int, str]]:
        """Return a column in its type, null where a value does not fit, and why for the places of these."""
        if kind in ("", "object"):
            return column, {}
        wanted = self._type(kind)
        if ":" in kind:  # a format; text has one
            return self._with_format(column, kind)
        try:
            cast = column.cast(wanted, safe=kind != "float64")
        except self._errors:
            return self._cast_each(column, kind, wanted)
        if kind in ("int64", "bool") and cast.null_count:
            missing = cast.is_null().to_pylist()
            why = f"the value is missing; the column is {kind}"
            return cast, {place: why for place, is_missing in enumerate(missing) if is_missing}
        return cast, {}

    def _cast_each(self, column: Any, kind: str, wanted: Any) -> Tuple[Any, Dict[int, str]]:
        values: List[Any] = []
        unfit: Dict[int, str] = {}
        for place, value in enumerate(column):
            try:
                values.append(value.cast(wanted).as_py())
                if values[-1] is None and kind in ("int64", "bool"):
                    unfit[place] = f"the value is missing; the column is {kind}"
            except self._errors:
                values.append(None)
                unfit[place] = f"{str(value)[:40]!r} is not {kind}"
        return self._pyarrow.chunked_array([self._pyarrow.array(values, wanted)]), unfit

    def _with_format(self, column: Any, kind: str) -> Tuple[Any, Dict[int, str]]:
        values: List[Any] = []
        unfit: Dict[int, str] = {}
        for place, value in enumerate(column.to_pylist()):
            try:
                (found,) = to_datetime(self._pandas, [value], kind)
                values.append(None if value is None else found.to_datetime64())
            except (ValueError, TypeError):
                values.append(None)
                unfit[place] = f"{str(value)[:40]!r} is not {kind}"
        array = self._pyarrow.array(values, self._type(kind))
        return self._pyarrow.chunked_array([array]), unfit

    def _type(self, kind: str) -> Any:
        if kind.startswith("datetime"):
            return self._pyarrow.timestamp("ns")
        return getattr(self._pyarrow, "bool_" if kind == "bool" else kind)()
