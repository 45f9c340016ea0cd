# SPDX-License-Identifier: Apache-2.0
"""JSON lines as DataFrames; rows that do not fit are found and left out."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .delimited import BadRow, Parsed, is_int64, text_type, to_datetime
from .records import Records


class JsonLinesParser:
    """Parses lines with a JSON object each.

    :param encoding: of the bytes
    :param others: whether a row may have keys that are no columns
    :param pandas: the module
    """

    def __init__(self, encoding: str, others: bool, pandas: Any) -> None:
        self._encoding = encoding
        self._others = others
        self._pandas = pandas
        self._decode = json.JSONDecoder(parse_constant=_refuse).decode
        self.records = Records(",", quoted=False)

    def row(self, record: bytes) -> Dict[str, Any]:
        """Return the object on a line.

        :raises ValueError: when there is none, or RecursionError
        """
        text = record.decode(self._encoding)
        row = self._decode(text)
        if not isinstance(row, dict):
            raise ValueError(f"not an object: {text.strip()[:40]}")
        if b"\\ud" in record.lower():  # half of a pair of surrogates can be written so, and is no text
            json.dumps(row, ensure_ascii=False).encode()
        return row

    def parse(self, block: bytes, columns: Sequence[Tuple[str, str]]) -> Parsed:
        """Return the rows of a block.

        :param block: whole lines
        :param columns: the names and types of the table's columns
        """
        records = self.records.split(block)
        names = {name for name, _ in columns}
        values: Dict[str, List[Any]] = {name: [] for name in names}
        bad: List[BadRow] = []
        for place, record in enumerate(records):
            try:
                row = self.row(record)
            except (ValueError, RecursionError) as error:
                bad.append(BadRow(place, None, str(error)))
                continue
            problem = self._problem(row, columns, names)
            if problem is not None:
                bad.append(BadRow(place, *problem))
                continue
            for name, column in values.items():
                column.append(row.get(name))
        if len(bad) == len(records):
            return Parsed(None, len(records), bad)
        made = {name: self._column(values[name], kind) for name, kind in columns}
        return Parsed(self._pandas.DataFrame(made), len(records), bad)

    def _problem(
        self, row: Dict[str, Any], columns: Sequence[Tuple[str, str]], names: set[str]
    ) -> Optional[Tuple[Optional[str], str]]:
        if not self._others and not names.issuperset(row):
            other = next(name for name in row if name not in names)
            return other, "no column of the table: the sample of its first rows has none of that name"
        for name, kind in columns:
            value = row.get(name)
            if value is None:
                if kind in ("int64", "bool"):
                    return name, f"the value is missing; the column is {kind}"
            elif not self._fits(value, kind):
                shown = json.dumps(value)
                return name, f"{shown if len(shown) < 40 else shown[:40] + '…'} is not {kind}"
        return None

    def _fits(self, value: Any, kind: str) -> bool:
        if kind == "object":
            return True
        if kind == "int64":
            return type(value) is int and is_int64(value)
        if kind == "float64":
            return type(value) is float or (type(value) is int and abs(value) < 1e308)
        if kind == "bool":
            return isinstance(value, bool)
        if not isinstance(value, str):
            return False
        if kind == "string":
            return True
        try:
            to_datetime(self._pandas, [value], kind)
        except ValueError:
            return False
        return True

    def _column(self, values: List[Any], kind: str) -> Any:
        if kind.startswith("datetime"):
            return to_datetime(self._pandas, self._pandas.Series(values, dtype=object), kind)
        return self._pandas.Series(values, dtype=text_type(self._pandas) if kind == "string" else kind)


def type_of(values: Sequence[Any]) -> str:
    """Return the type of a column that has these values, None where one is missing."""
    kinds = {type(value) for value in values}
    present = kinds - {type(None)}
    if present == {bool} and present == kinds:
        return "bool"
    if present == {int} and present == kinds and all(map(is_int64, values)):
        return "int64"
    if present and present <= {int, float}:
        return "float64"
    return "string" if present <= {str} else "object"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
