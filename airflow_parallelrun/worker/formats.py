# SPDX-License-Identifier: Apache-2.0
"""Rows with named columns: as CSV and as JSON lines. ``arrow.py`` has those of Parquet."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

from .columns import RESULT, check_clash, check_names, columns_of, is_missing, row_of, single, values_of

# Takes what this process's first rows call for, and returns what holds for the run.
Agree = Callable[..., str]

# Of these Python has no float of its own.
_NARROW = ("float16", "float32")


class CsvRows:
    """Rows as CSV, below one line with the names of the columns.

    :param agree: takes the line of names of this process's first rows, and returns the run's
    """

    def __init__(self, agree: Agree) -> None:
        self._agree = agree
        self._names: Optional[List[str]] = None
        #: What stands above the rows, as far as it is known here.
        self.header = b""

    def rows(self, value: Any, provenance: Dict[str, Sequence[Any]]) -> bytes:
        """Return rows as they stand in the output.

        :param value: what run() returned, with a row at least
        :param provenance: further columns
        :raises ReturnValueError: for what cannot be written, or has not the columns of the run
        """
        columns = columns_of(value)
        check_clash(columns, provenance)
        columns.update(provenance)
        if self._names is None:
            line = self._agree(_lines([columns]))
            self.header = encoded(line)
            self._names = next(csv.reader(io.StringIO(line, newline="")))
        check_names([*columns], self._names)
        return encoded(_lines(zip(*[_cells(columns[name]) for name in self._names])))

    def shown(self, rows: bytes) -> str:
        """Return rows as people can read them."""
        return (self.header + rows).decode("utf-8", "replace")


class JsonRows:
    """Rows as JSON, an object and a line for each."""

    header = b""

    def rows(self, value: Any, provenance: Dict[str, Sequence[Any]]) -> bytes:
        """Return rows as they stand in the output; see :meth:`CsvRows.rows`."""
        rows = _objects(value)
        if provenance:
            for row, tail in zip(rows, zip(*provenance.values())):
                check_clash(row, provenance)
                row.update(zip(provenance, tail))
        text = "".join([_json_line(row) for row in rows])
        # JSON is UTF-8, and has an escape for what is not: a part of a file name in another encoding.
        return text.encode("utf-8", "backslashreplace")

    def shown(self, rows: bytes) -> str:
        """Return rows as people can read them."""
        return rows.decode("utf-8")


def encoded(text: str) -> bytes:
    """Return text as UTF-8; a file name that is not UTF-8 comes out as the bytes that it has on disk."""
    return text.encode("utf-8", "surrogateescape")


class _Lines(List[str]):
    """Takes the lines of a csv.writer.

    Its line end is that of RFC 4180, since it quotes a field for the characters of its own line end alone.
    """

    def write(self, line: str) -> None:
        self.append(line[:-2] + "\n")


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    lines = _Lines()
    csv.writer(lines).writerows(rows)
    return "".join(lines)


def _cells(column: Any) -> List[Any]:
    # What is narrow has as many digits as it can hold: 0.1, not 0.10000000149011612.
    narrow = getattr(getattr(column, "dtype", None), "name", "") in _NARROW
    return [_cell(value) for value in (column.__array__() if narrow else values_of(column))]


def _cell(value: Any) -> Any:
    if type(value) in (str, int, bool):
        return value
    return "" if is_missing(value) else single(value)


def _objects(value: Any) -> List[Dict[str, Any]]:
    if isinstance(value, (list, tuple)):
        return [row_of(each) if isinstance(each, dict) else {RESULT: each} for each in value]
    columns = columns_of(value)
    return [dict(zip(columns, row)) for row in zip(*map(values_of, columns.values()))]


def _json_line(row: Dict[str, Any]) -> str:
    try:
        return _ENCODER.encode(row) + "\n"
    except (TypeError, ValueError):  # NaN; or a dict within it has a key that is no text
        return _ENCODER.encode(_strict(row)) + "\n"


def _strict(value: Any) -> Any:
    """Return a value without what JSON has no form for, but for objects of other types."""
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in row_of(value).items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_another_type(value: Any) -> Any:
    """Return the JSON of an object that is none of Python's plain types."""
    if is_missing(value):
        return None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if not hasattr(value, "tolist"):
        return str(value)
    if getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M"):  # Python's own may hold less
        return [_of_another_type(each) for each in value] if value.ndim else str(value)
    return _strict(value.tolist())


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_of_another_type
)
