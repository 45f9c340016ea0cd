# SPDX-License-Identifier: Apache-2.0
"""Delimited text as DataFrames: pandas reads it; rows that do not fit are found and left out, one by one."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .errors import LoadError
from .records import Records

# Behind the last column, for fields that no column has; no name in a file's header has a NUL character.
_BEYOND = "\0"

_WHOLE = re.compile(r"\s*[+-]?0*[0-9]{1,19}\s*")
# Types that pandas finds by itself.
_FOUND = ("int64", "float64", "bool")
# What reading raises when something does not fit.
_REFUSED = (ValueError, OverflowError, Warning)
# What pandas takes for a missing value by default.
_MISSING_CODES = ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>")
_MISSING_WORDS = ("-NaN", "-nan", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
MISSING = frozenset(["", *_MISSING_CODES, *_MISSING_WORDS])
_SHOWN = 40
_COUNTED = 1 << 16


class BadRow(NamedTuple):
    """A record that is no row of the table.

    :param place: of the record, from 0
    :param column: the column that has the value; None when it is the whole record
    :param why: what is wrong
    """

    place: int
    column: Optional[str]
    why: str


class Parsed(NamedTuple):
    """Rows.

    :param frame: a DataFrame of those that fit; None when there is none
    :param items: how many records there are
    :param bad: those that do not fit, in order
    """

    frame: Any
    items: int
    bad: List[BadRow]


class DelimitedParser:
    """Parses records of delimited text.

    :param document: the source, as the plan has it
    :param encoding: of the bytes
    :param pandas: the module
    """

    def __init__(self, document: Dict[str, Any], encoding: str, pandas: Any) -> None:
        self._separator: str = document["separator"]
        self._encoding = encoding
        self._quoted: bool = document["support_multi_line"]
        self._empty_as_string: bool = document["empty_as_string"]
        self._pandas = pandas
        self.records = Records(self._separator, self._quoted)

    def fields(self, record: bytes) -> List[str]:
        """Return the fields of a record.

        :raises LoadError: when it is not in the encoding
        """
        try:
            text = record.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise LoadError(f"{_shown(record)} is not {self._encoding}: {error.reason}") from error
        try:
            return next(csv.reader([text], delimiter=self._separator), [])
        except csv.Error as error:
            raise LoadError(f"{_shown(record)} is no header: {error}") from error

    def parse(self, block: bytes, columns: Sequence[Tuple[str, str]]) -> Parsed:
        """Return the rows of a block.

        :param block: whole records
        :param columns: the names and types of the fields, in the order of the file
        """
        with contextlib.suppress(*_REFUSED):
            frame = self._read_plain(block, columns)
            return Parsed(frame, len(frame), [])
        try:
            frame = self._read(block, columns)
        except _REFUSED:
            frame = None
        if frame is not None and (self._quoted or len(frame) == self._count(block, len(frame))):
            return Parsed(frame, len(frame), [])
        records = self.records.split(block)
        bad = {place: why for place, record in enumerate(records) if (why := self.problem(record, columns))}
        good = [place for place in range(len(records)) if place not in bad]
        frames, others = self._isolate([records[place] for place in good], columns)
        for place, text in others.items():
            bad[good[place]] = (None, text)
        frame = self._pandas.concat(frames, ignore_index=True) if frames else None
        return Parsed(frame, len(records), [BadRow(place, *bad[place]) for place in sorted(bad)])

    def _count(self, block: bytes, expected: int) -> int:
        """Return how many records there are; where no line is blank it is enough to count line breaks."""
        breaks = block.count(b"\n") + (not block.endswith(b"\n"))
        if breaks == expected and block.count(b"\r") == block.count(b"\r\n"):
            return breaks
        return len(self.records.split(block))

    def _read_plain(self, block: bytes, columns: Sequence[Tuple[str, str]]) -> Any:
        """Have pandas read a block without quotation marks, ragged rows, and words for missing values.

        That takes pandas half as long as to look for these, and most blocks are so.

        :raises ValueError: when it may be another one, as do OverflowError and pandas' ParserWarning
        """
        if b'"' in block or b"\r" in block or block.startswith(codecs.BOM_UTF8) or self._empty_as_string:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("error", self._pandas.errors.ParserWarning)
            frame = self._pandas.read_csv(
                io.BytesIO(block),
                names=[name for name, _ in columns],
                dtype={name: str for name, kind in columns if kind not in _FOUND},
                na_values=[""],
                encoding=self._encoding,
                **read_csv_arguments(self._separator, block),
            )
        rows = _count_bytes(block, b"\n") + (not block.endswith(b"\n"))
        separators = _count_bytes(block, self._separator.encode())
        # Nor is a row short, for then it would lack the last value; so none is long.
        if (rows, separators) != (len(frame), len(frame) * (len(columns) - 1)) or frame.iloc[:, -1].hasnans:
            raise ValueError
        return self._typed(frame, columns)

    def _read(self, block: bytes, columns: Sequence[Tuple[str, str]]) -> Any:
        """Have pandas read a block.

        :raises ValueError: when it does not fit, as do OverflowError and pandas' ParserWarning
        """
        if not self._quoted:
            block = with_newlines(block)
        text = [] if self._empty_as_string else [""]
        missing = {name: text if kind == "string" else MISSING for name, kind in columns}
        with warnings.catch_warnings():
            warnings.simplefilter("error", self._pandas.errors.ParserWarning)
            frame = self._pandas.read_csv(
                # A mark within the file is text; pandas takes one at the beginning for that of the file.
                io.BytesIO(b"\n" + block if block.startswith(codecs.BOM_UTF8) else block),
                names=[*(name for name, _ in columns), _BEYOND],
                # Given a type of numbers, pandas would also take what it can make one of: True, or 1.0.
                dtype={_BEYOND: str, **{name: str for name, kind in columns if kind not in _FOUND}},
                na_values={**missing, _BEYOND: [""]},
                encoding=self._encoding,
                **read_csv_arguments(self._separator, block),
            )
        if frame.pop(_BEYOND).notna().any():
            raise ValueError("more fields than columns")
        return self._typed(frame, columns)

    def _typed(self, frame: Any, columns: Sequence[Tuple[str, str]]) -> Any:
        for (name, kind), found in zip(columns, frame.dtypes):
            if kind in _FOUND and found == kind:
                continue
            column = frame[name]
            if kind.startswith("datetime"):
                frame[name] = to_datetime(self._pandas, column, kind)
            elif kind == "float64" and column.dtype.kind != "b":
                frame[name] = self._pandas.to_numeric(column).astype("float64")
            elif kind in _FOUND:
                raise ValueError(f"the column {name!r} is not {kind}")
        return frame

    def problem(
        self, record: bytes, columns: Sequence[Tuple[str, str]]
    ) -> Optional[Tuple[Optional[str], str]]:
        """Return the column and what is wrong with a record; None when nothing is found."""
        try:
            text = record.decode(self._encoding)
        except UnicodeDecodeError as error:
            return None, f"{_shown(record)} is not {self._encoding}: {error.reason}"
        # One that is not closed goes on with the next line.
        reader = csv.reader([text, ""], delimiter=self._separator)
        try:
            fields = next(reader)
        except csv.Error:  # a field that is too long for this module; pandas says what it thinks of it
            return None
        if reader.line_num > 1:
            hint = "" if self._quoted else "; a field of several lines needs support_multi_line"
            return None, f"{_shown(record)}: a quotation mark is not closed{hint}"
        if any(fields[len(columns) :]) or len(fields) > len(columns) + 1:
            return None, f"{len(fields)} fields for {len(columns)} columns"
        fields += [""] * (len(columns) - len(fields))
        for (name, kind), field in zip(columns, fields):
            if why := self._unfit(field, kind):
                return name, why
        return None

    def _unfit(self, field: str, kind: str) -> str:
        """Return why a field is no value of a type; empty when it is one."""
        if kind == "string":
            return ""
        if field in MISSING:
            return "" if kind not in ("int64", "bool") else f"the value is missing; the column is {kind}"
        shown = f"{_shown(field)} is not {kind}"
        if kind == "int64":
            fits = bool(_WHOLE.fullmatch(field)) and is_int64(int(field))
        elif kind == "bool":
            fits = field.lower() in ("true", "false")
        elif kind == "float64":
            fits = "_" not in field and _accepts(float, field)
        else:
            fits = _accepts(lambda text: to_datetime(self._pandas, [text], kind), field)
        return "" if fits else shown

    def _isolate(
        self, records: List[bytes], columns: Sequence[Tuple[str, str]]
    ) -> Tuple[List[Any], Dict[int, str]]:
        """Read records, and halve them until those are alone that pandas refuses.

        :return: the rows in order, and for the place of each other record what pandas says of it
        """
        if not records:
            return [], {}
        try:
            frame = self._read(b"".join(map(_ended, records)), columns)
        except _REFUSED as error:
            problem = str(error)
        else:
            if len(frame) == len(records):
                return [frame], {}
            problem = f"pandas reads {len(frame)} rows in {_shown(records[0])}"
        if len(records) == 1:
            return [], {0: problem}
        middle = len(records) // 2
        frames, bad = self._isolate(records[:middle], columns)
        more_frames, more = self._isolate(records[middle:], columns)
        bad.update((place + middle, why) for place, why in more.items())
        return [*frames, *more_frames], bad


def _count_bytes(block: bytes, one: bytes) -> int:
    """Return how often a byte is in a block; where it is often there, bytes.count takes much longer."""
    import numpy

    array, value = numpy.frombuffer(block, "uint8"), ord(one)
    # In pieces, for which memory is there already.
    pieces = range(0, len(array), _COUNTED)
    return sum(int(numpy.count_nonzero(array[at : at + _COUNTED] == value)) for at in pieces)


def read_csv_arguments(separator: str, block: bytes) -> Dict[str, Any]:
    """Return the arguments of ``pandas.read_csv`` for whole records without a header."""
    return {
        "sep": separator,
        "header": None,
        "index_col": False,
        "keep_default_na": False,
        "engine": "c",
        "low_memory": False,
        "lineterminator": "\r" if b"\r" in block and b"\n" not in block else None,
    }


def with_newlines(block: bytes) -> bytes:
    """Return lines without a carriage return that ends one alone: behind it pandas loses separators."""
    if block.count(b"\r") == block.count(b"\r\n"):
        return block
    return b"\n".join(block.splitlines()) + b"\n"


def column_names(fields: Sequence[str]) -> List[str]:
    """Return the names of columns for the fields of a header, as pandas has them: unique, and none empty."""
    names: List[str] = []
    taken = set(fields)
    for place, field in enumerate(fields):
        name = wanted = field or f"Unnamed: {place}"
        number = 0
        while name in names or (number and name in taken):
            number += 1
            name = f"{wanted}.{number}"
        names.append(name)
    return names


def text_type(pandas: Any) -> Any:
    """Return the type of columns of text: pandas 3 has one of its own; before that it is object."""
    return pandas.Series(["text"]).dtype


def is_int64(value: int) -> bool:
    """Tell whether a whole number has 64 bits at most."""
    return -(2**63) <= value < 2**63


def to_datetime(pandas: Any, values: Any, kind: str) -> Any:
    """Return texts as dates and times in UTC, without a zone, in ns; those without a zone are taken for UTC.

    :param kind: the column's type, with the format if it has one
    :raises ValueError: when one does not fit
    """
    found = pandas.to_datetime(values, format=kind.partition(":")[2] or "ISO8601", utc=True)
    found = getattr(found, "dt", found).tz_localize(None)
    return found.astype("datetime64[ns]")


def _accepts(convert: Any, text: str) -> bool:
    try:
        convert(text)
    except (ValueError, OverflowError):
        return False
    return True


def _ended(record: bytes) -> bytes:
    return record if record.endswith((b"\n", b"\r")) else record + b"\n"


def _shown(text: Any) -> str:
    shown = repr(text if isinstance(text, str) else text.decode("utf-8", "replace"))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
