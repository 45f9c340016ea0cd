# SPDX-License-Identifier: Apache-2.0
"""Rows as Arrow has them, for an output that is one Parquet file.

Those of each mini-batch are a stream of their own (Arrow's IPC streaming format), so that any number of
them may stand behind one another; ``reduce`` makes the file of them.
"""

from __future__ import annotations

import base64
import importlib
import sys
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from .columns import check_clash, check_names, columns_of, is_of
from .errors import ContractError, ReturnValueError
from .header import shortened

if TYPE_CHECKING:
    from .formats import Agree

_PROVENANCE_TYPES = {"source": "string", "model_version": "string"}
_DECIMAL_DIGITS = 38


class ParquetRows:
    """Rows as a stream for each mini-batch, all of one schema.

    The first rows of the run make it. A column that has no value in them has no type yet (Arrow's null); the
    first value makes it, and the next version of the schema.

    :param agree: takes a schema and which version of the run's it is to be, and returns that version
    :raises ContractError: when this interpreter has no pyarrow
    """

    header = b""

    def __init__(self, agree: Agree) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
        except ImportError as error:
            raise ContractError(
                f"append_row_format is parquet, and {sys.executable} cannot import pyarrow: {error}. "
                "Install pyarrow for the entry script, or choose csv or jsonl."
            ) from error
        self._agree = agree
        self._schema: Any = None
        self._version = 0

    def rows(self, value: Any, provenance: Dict[str, Sequence[Any]]) -> bytes:
        """Return rows as a stream.

        :param value: what run() returned, with a row at least
        :param provenance: further columns
        :raises ReturnValueError: for what cannot be written, or does not fit the schema of the run
        """
        columns = columns_of(value)
        check_clash(columns, provenance)
        arrays = {name: self._array(name, column) for name, column in columns.items()}
        for name, each in provenance.items():
            type_ = _PROVENANCE_TYPES.get(name, "int64")
            arrays[name] = self._arrow.array([_text(cell) for cell in each], type_)
        self._settle({name: array.type for name, array in arrays.items()})
        fitting = [self._cast(field, arrays[field.name]) for field in self._schema]
        sink = self._arrow.BufferOutputStream()
        with self._arrow.ipc.new_stream(sink, self._schema) as writer:
            writer.write_table(self._arrow.table(fitting, schema=self._schema))
        return bytes(sink.getvalue().to_pybytes())

    def shown(self, rows: bytes) -> str:
        """Return rows as people can read them, below the names and types of the columns."""
        if not rows:
            return ""
        table = self._arrow.ipc.open_stream(rows).read_all()
        types = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        return "\n".join([types, *map(str, table.to_pylist())])

    def _array(self, name: str, column: Any) -> Any:
        types = self._arrow.types
        if is_of(column, "pyarrow", "Array", "ChunkedArray"):
            array = column
        else:
            try:
                array = self._arrow.array(column, from_pandas=True)
            except (self._arrow.ArrowException, OverflowError, TypeError, ValueError) as error:
                raise ReturnValueError(
                    f"run() returned values in the column {name!r} that have no common type: {error}"
                ) from error
            if types.is_decimal128(array.type):  # the first ones need not be the longest
                array = array.cast(self._arrow.decimal128(_DECIMAL_DIGITS, array.type.scale))
        # Parquet has a dictionary of its own; here each mini-batch would come with another one.
        return array.cast(array.type.value_type) if types.is_dictionary(array.type) else array

    def _settle(self, types: Dict[str, Any]) -> None:
        """Have a schema in which every column that has a value here has a type."""
        if self._schema is None:
            self._propose(types)
        check_names([*types], self._schema.names)
        while any(
            self._is_open(field.type) and not self._is_open(types[field.name]) for field in self._schema
        ):
            held = {field.name: field.type for field in self._schema}
            self._propose({name: types[name] if self._is_open(held[name]) else held[name] for name in held})

    def _propose(self, types: Dict[str, Any]) -> None:
        proposed = self._arrow.schema(list(types.items()))
        text = base64.b64encode(proposed.serialize().to_pybytes()).decode()
        data = base64.b64decode(self._agree(text, self._version))
        self._schema = self._arrow.ipc.read_schema(self._arrow.py_buffer(data))
        self._version += 1

    def _is_open(self, type_: Any) -> bool:
        """Tell whether a type says nothing: of a column without a value, or of lists without an element."""
        types = self._arrow.types
        if types.is_list(type_) or types.is_large_list(type_):
            return self._is_open(type_.value_type)
        return bool(types.is_null(type_))

    def _cast(self, field: Any, array: Any) -> Any:
        if array.type == field.type:
            return array
        cast = self._converted(array, field.type)
        if cast is None:
            value = shortened(repr(self._first_refused(array, field.type)))
            raise ReturnValueError(
                f"run() returned {value} in the column {field.name!r}, as {array.type}; in this run that "
                f"column is {field.type}, as its first rows have it. Return one type in all mini-batches."
            )
        return cast

    def _converted(self, array: Any, type_: Any) -> Optional[Any]:
        """Return an array in another type; None when it would not be the same, but for digits of floats."""
        types = self._arrow.types
        try:
            cast = array.cast(type_)
            if self._is_open(array.type) or (types.is_floating(array.type) and types.is_floating(type_)):
                return cast
            return cast if cast.cast(array.type).equals(array) else None
        except self._arrow.ArrowException:
            return None

    def _first_refused(self, array: Any, type_: Any) -> Any:
        """Return the first value that cannot be converted."""
        good, bad = 0, len(array)
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._converted(array.slice(good, middle - good), type_) is None:
                bad = middle
            else:
                good = middle
        return array[good].as_py()


def _text(cell: Any) -> Any:
    """Return a provenance cell; of a file name that is not UTF-8, what can be said of it."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell
