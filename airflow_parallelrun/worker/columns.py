# SPDX-License-Identifier: Apache-2.0
"""What run() may return, and its columns by name.

Nothing is imported to recognise a value: a script that returns an array has imported numpy, and one that
has not must not pay for it.
"""

from __future__ import annotations

import datetime
import importlib
import sys
from decimal import Decimal
from typing import Any, Container, Dict, Iterable, List, Sequence, Tuple

from .errors import ReturnValueError
from .header import clipped

KINDS = "a list, a tuple, a pandas DataFrame or Series, a numpy array or a pyarrow Table"

# The column of what has no name of its own.
RESULT = "result"

_SINGLE = (str, bytes, bool, int, float, Decimal, datetime.date, datetime.time, datetime.timedelta)


def is_of(value: Any, library: str, *names: str) -> bool:
    """Tell whether a value is of one of these classes of a library, which need not be there."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, tuple(getattr(module, name, ()) for name in names))


def can_be_counted(value: Any) -> bool:
    """Tell whether what is no list and no tuple has a length that says how many elements or rows it has."""
    return (
        is_of(value, "pandas", "DataFrame", "Series")
        or is_of(value, "pyarrow", "Table", "RecordBatch")
        or (is_of(value, "numpy", "ndarray") and value.ndim > 0)
    )


def as_list_or_frame(value: Any) -> Any:
    """Return an array of one dimension as a list, and whatever else can be counted as a DataFrame.

    :raises ReturnValueError: for an array that is neither, and where pandas is needed and not there
    """
    if is_of(value, "pandas", "Series"):
        return value.to_frame()
    if is_of(value, "pyarrow", "Table", "RecordBatch"):
        _pandas("a pyarrow Table")
        return value.to_pandas()
    if _dimensions(value) == 1:
        return values_of(value)
    return _pandas("an array of two dimensions").DataFrame(value)


def columns_of(value: Any) -> Dict[str, Any]:
    """Return the columns of what run() returned, each as it is kept there: a list, an array or a Series.

    :param value: anything that can be counted, with a row at least
    :raises ReturnValueError: for what has no columns, or not one set of them
    """
    if isinstance(value, (list, tuple)):
        columns = _of_elements(value)
    elif is_of(value, "pandas", "DataFrame"):
        columns = _named(value.items())
    elif is_of(value, "pandas", "Series"):
        columns = {RESULT if value.name is None else str(value.name): value}
    elif is_of(value, "pyarrow", "Table", "RecordBatch"):
        columns = _named(zip(value.schema.names, value.columns))
    elif _dimensions(value) == 1:
        columns = {RESULT: value}
    else:
        columns = {str(place): value[:, place] for place in range(value.shape[1])}
    if not columns:
        raise ReturnValueError(f"run() returned {len(value)} rows without a column. Give them one.")
    return columns


def row_of(element: Dict[Any, Any]) -> Dict[str, Any]:
    """Return a dict with its keys as text.

    :raises ReturnValueError: when two of them are the same text
    """
    return _named(element.items())


def values_of(column: Any) -> List[Any]:
    """Return the values of a column as Python has them; of dates in numpy it may not have all."""
    if isinstance(column, (list, tuple, range)):
        return [*column]
    if is_of(column, "pyarrow", "Array", "ChunkedArray"):
        return list(column.to_pylist())
    if is_of(column, "numpy", "ndarray") and column.dtype.kind in "mM":
        return [*column]
    return list(column.tolist())


def single(value: Any) -> Any:
    """Return a value as it can stand in one field: as it is, or as text when it is no single value."""
    if isinstance(value, _SINGLE) or is_of(value, "numpy", "generic") or is_missing(value):
        return value
    return str(value.tolist() if is_of(value, "numpy", "ndarray") else value)


def is_missing(value: Any) -> bool:
    """Tell whether a value is None, NaN, NaT or NA."""
    if value is None:
        return True
    if isinstance(value, float):
        return value != value
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NaT or value is pandas.NA):
        return True
    return is_of(value, "numpy", "generic") and value.dtype.kind in "fcmM" and bool(value != value)


def check_clash(names: Container[str], provenance: Iterable[str]) -> None:
    """Check that no column has the name of a provenance column.

    :raises ReturnValueError: when one has
    """
    for name in provenance:
        if name in names:
            raise ReturnValueError(
                f"run() returned a column {name!r}, which is a provenance column too. "
                "Rename it, or leave it out of provenance_columns."
            )


def check_names(names: Sequence[str], held: Sequence[str]) -> None:
    """Check that rows have the columns of the run, in whatever order.

    :raises ReturnValueError: when they have others
    """
    if set(names) != set(held):
        raise ReturnValueError(
            f"run() returned the columns {clipped(', '.join(names))}; the first rows of this run had "
            f"{clipped(', '.join(held))}. append_row_format csv and parquet call for the same columns in all "
            "mini-batches; jsonl does not."
        )


def _of_elements(elements: Sequence[Any]) -> Dict[str, Any]:
    dicts = sum(isinstance(element, dict) for element in elements)
    if not dicts:
        return {RESULT: [single(element) for element in elements]}
    if dicts < len(elements):
        raise ReturnValueError(
            "run() returned dicts and other elements in one list. Return dicts alone, or none: the keys of "
            "a dict are the names of its row's columns."
        )
    rows = [row_of(element) for element in elements]
    for row in rows:
        check_names([*row], [*rows[0]])
    return {name: [row[name] for row in rows] for name in rows[0]}


def _named(pairs: Iterable[Tuple[Any, Any]]) -> Dict[str, Any]:
    columns: Dict[str, Any] = {}
    for name, column in pairs:
        if str(name) in columns:
            raise ReturnValueError(
                f"run() returned two columns with the name {str(name)!r}. Give each a name of its own, or "
                "use append_row_format text, which writes no names."
            )
        columns[str(name)] = column
    return columns


def _dimensions(array: Any) -> int:
    """Return how many dimensions an array has.

    :raises ReturnValueError: for one that cannot be written
    """
    if array.dtype.names:
        raise ReturnValueError(
            "run() returned a structured array. Return pandas.DataFrame(array), whose columns are its fields."
        )
    if array.ndim > 2:
        raise ReturnValueError(
            f"run() returned an array of {array.ndim} dimensions. Return one of one dimension, an element "
            "for each item, or of two, a row for each item: array.reshape(len(array), -1)."
        )
    return int(array.ndim)


def _pandas(what: str) -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ReturnValueError(
            f"run() returned {what}, whose text is made by pandas, which {sys.executable} cannot import: "
            f"{error}. Install pandas, or return a list."
        ) from error
