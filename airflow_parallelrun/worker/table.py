# SPDX-License-Identifier: Apache-2.0
"""An input of tables: a mini-batch is some rows of a file, and ``run()`` gets them as a DataFrame."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .delimited import DelimitedParser, Parsed, column_names, text_type
from .errors import ContractError, InputChangedError, LoadError, RowError
from .items import END, FIRST, ONLY, UNTIL, Item
from .json_lines import JsonLinesParser
from .loading import Loaded, copies_of, find
from .parquet import ParquetRows
from .records import (
    LocalBytes,
    TextFile,
    bytes_encoding,
    count_line_breaks,
    first_record,
    line_breaks,
    next_line,
)
from .spool import identity
from .sql import SqlParts

if TYPE_CHECKING:
    from .conditions import Condition
    from .partitions import PartitionFormat

PATH_COLUMN = "Path"

_FIELDS_SHOWN = 20

_Columns = Sequence[Tuple[str, str]]


class Rows(NamedTuple):
    """Rows of a mini-batch.

    :param frame: a DataFrame of those that fit; None when there is none
    :param paths: the file of each of these
    :param items: how many there are, those that do not fit as well
    :param bad: these: the place among all of them, where it stands, the column or None, and what is wrong
    """

    frame: Any
    paths: List[str]
    items: int
    bad: List[Any]

    def part(self, part: slice) -> Rows:
        """Return neighbours among all of them; places count from the first one."""
        places = [row[0] for row in self.bad]
        first, end = (place - bisect_left(places, place) for place in (part.start, part.stop))
        bad = [(row[0] - part.start, *row[1:]) for row in self.bad if part.start <= row[0] < part.stop]
        frame = None if self.frame is None else self.frame.iloc[first:end].reset_index(drop=True)
        return Rows(frame, self.paths[first:end], part.stop - part.start, bad)


class TableSource:
    """An input of tables.

    :param document: the source, as the plan has it
    :param pattern: where partition keys stand in a path
    :param keys: those that make a mini-batch
    :raises ContractError: when this interpreter lacks what it takes
    """

    def __init__(
        self, document: Dict[str, Any], pattern: Optional[PartitionFormat], keys: Sequence[str]
    ) -> None:
        try:
            import pandas

            if document["format"] == "parquet":
                import pyarrow  # noqa: F401
            self._file = file_parts(document, pandas)
        except ImportError as error:
            raise ContractError(
                f"the input is a table, and this interpreter has no {error.name or error}: install it"
            ) from error
        self._pattern = pattern
        self._keys = keys
        self._spool: Optional[str] = document.get("spool")
        dated = any(kind.startswith("datetime") for _, kind in document["columns"])
        if dated and int(pandas.__version__.partition(".")[0]) < 2:
            raise ContractError(
                f"a column of dates needs pandas 2, and this interpreter has {pandas.__version__}"
            )
        self._path_column: bool = document["include_path"]
        self._columns: List[str] = document["shown"]
        self._types: Dict[str, str] = dict(document["columns"])
        self._pandas: Any = pandas

    def load(self, items: List[Item], part: Optional[slice], ordinal: int) -> Loaded:
        """Load the rows of parts of files; those that do not fit are left out.

        Of a file that cannot be read nothing is known: then the mini-batch fails, and run() gets none of it.
        """
        keys = {} if self._pattern is None else self._pattern.only(self._keys, items[0][0])
        found = find(items, copies_of(self._spool, ordinal))
        try:
            if found.wrong is not None:
                raise found.wrong
            read = [self._read(item, place) for item, place in zip(items, found.places)]
        except (InputChangedError, LoadError, OSError) as error:
            return self._lost(items, found.places, part, error, keys)
        except Exception as error:  # noqa: BLE001 - whatever a library makes of a broken file
            lost = LoadError(f"{items[0][0]}: {type(error).__name__}: {error}")
            return self._lost(items, found.places, part, lost, keys)
        rows = read[0] if len(read) == 1 else self._joined(read)
        if part is not None:
            rows = rows.part(part)
        wrong = RowError([row[1:] for row in rows.bad]) if rows.bad else None
        given = rows.frame is not None and len(rows.frame) > 0
        return Loaded(rows.frame if given else None, rows.paths, rows.items, wrong, keys)

    def _lost(
        self,
        items: List[Item],
        places: List[str],
        part: Optional[slice],
        error: Exception,
        keys: Dict[str, Any],
    ) -> Loaded:
        if part is not None:
            count = part.stop - part.start
        else:
            count = self._file.count(items, None if isinstance(error, InputChangedError) else places)
        return Loaded(None, [], count, error, keys)

    def _read(self, item: Item, place: str) -> Rows:
        parsed = self._file.parse(item, place)
        path: str = item[0]
        bad: List[Any] = []
        if parsed.bad:
            where = self._file.where(item, [row.place for row in parsed.bad])
            bad = [
                (row.place, f"{path}, {here}", row.column, row.why) for row, here in zip(parsed.bad, where)
            ]
        frame = None if parsed.frame is None else self._complete(parsed.frame, path)
        rows = Rows(frame, [] if frame is None else [path] * len(frame), parsed.items, bad)
        is_part = len(item) > ONLY and (item[ONLY], item[UNTIL]) != (0, rows.items)
        return rows.part(slice(item[ONLY], item[UNTIL])) if is_part else rows

    def _joined(self, read: List[Rows]) -> Rows:
        frames, paths, bad, items = [], [], [], 0
        for each in read:
            if each.frame is not None:
                frames.append(each.frame)
            paths += each.paths
            bad += [(items + place, *rest) for place, *rest in each.bad]
            items += each.items
        frame = self._pandas.concat(frames, ignore_index=True) if frames else None
        return Rows(frame, paths, items, bad)

    def _complete(self, frame: Any, path: str) -> Any:
        """Return the rows with the columns that run() gets; some the path says, some are absent here."""
        if self._pattern is not None:
            for key, value in (self._pattern.values(path) or {}).items():
                if key not in frame.columns:
                    frame[key] = self._missing("string", frame.index) if value is None else value
        if self._path_column:
            frame[PATH_COLUMN] = path
        if self._columns == list(frame.columns):
            return frame
        for name in self._columns:
            if name not in frame.columns:  # only other files have it
                frame[name] = self._missing(self._types[name], frame.index)
        return frame[self._columns]

    def _missing(self, kind: str, index: Any) -> Any:
        """Return a column without a value; split has made it of a type that can be so."""
        if kind.startswith("datetime"):
            return self._pandas.Series(self._pandas.NaT, index).astype("datetime64[ns]")
        type_ = text_type(self._pandas) if kind == "string" else kind
        return self._pandas.Series(float("nan"), index).astype(type_)


class TextParts:
    """Parts of text files."""

    def __init__(self, document: Dict[str, Any], parser: Any, encoding: str) -> None:
        self._encoding = encoding
        self._exact: bool = document["exact"]
        # The last file and what it is known by, where its rows begin, and its columns.
        self._opened: Optional[Tuple[Any, TextFile, int, _Columns]] = None
        # The bytes of the last part, and where they begin; whether other parts of the file may be absent.
        self._block, self._begins, self._is_piece = b"", 0, False
        # How far lines were counted: the file, an offset, and its line.
        self._counted = "", 0, 1
        self._parser = parser
        self.columns: _Columns = [(name, kind) for name, kind in document["columns"]]

    def parse(self, item: Item, place: str) -> Parsed:
        """Return the rows of a part.

        :param place: where the file is, or a copy that need have no more of it than the part
        :raises LoadError: when it is not what the dataset says it is
        :raises OSError: when it cannot be read
        """
        file, columns, begin, end = self._open(item, place)
        self._is_piece = place != item[0] and not file.is_stream
        if file.is_stream:
            self._line_at(file, begin)  # before it is read on: to go back takes as long as to begin anew
        self._block, self._begins = (file.read(begin, end - begin) if end > begin else b""), begin
        return self._parser.parse(self._block, columns) if self._block else Parsed(None, 0, [])

    def count(self, items: Sequence[Item], places: Optional[Sequence[str]]) -> int:
        """Return how many rows parts have; 0 when that cannot be told.

        :param places: where the files are; None when one has changed
        """
        if all(len(item) > ONLY for item in items):
            return sum(item[UNTIL] - item[ONLY] for item in items)
        if places is None or len(places) < len(items):
            return 0
        try:
            return sum(self._count(item, place) for item, place in zip(items, places))
        except (LoadError, OSError):
            return 0

    def _count(self, item: Item, place: str) -> int:
        file, _, begin, end = self._open(item, place)
        return sum(1 for _ in self._parser.records.within(file, begin, end))

    def where(self, item: Item, places: List[int]) -> List[str]:
        """Return where the records at some places of the part stand that was parsed last.

        That is the number of the line, from 1; of a copy without the lines before it the byte, from 0.
        """
        begin = self._begins
        number = begin if self._is_piece else self._line_at(self._last_file(), begin)
        at, wanted, found = 0, set(places), []
        for place, (start, _) in enumerate(self._parser.records.places(self._block)):
            number += start - at if self._is_piece else line_breaks(self._block[at:start])
            at = start
            if place in wanted:
                found.append(f"{'byte' if self._is_piece else 'line'} {number}")
        return found

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _last_file(self) -> TextFile:
        assert self._opened is not None
        return self._opened[1]

    def _line_at(self, file: TextFile, offset: int) -> int:
        """Return the number of the line that begins at an offset; quick when offsets count up."""
        path, at, number = self._counted
        if path != file.path or at > offset:
            at, number = 0, 1
        number += count_line_breaks(file, at, offset)
        self._counted = file.path, offset, number
        return number

    def _open(self, item: Item, place: str) -> Tuple[TextFile, _Columns, int, int]:
        """Return the file, its columns in their order there, and where the rows of a part begin and end."""
        path = item[0]
        known_by: Any = path if place == path else identity(place)
        if self._opened is None or self._opened[0] != known_by:
            self.close()
            file = TextFile(path, self._encoding, LocalBytes(place))
            try:
                self._opened = (known_by, file, *self.begin(file))
            except BaseException:
                file.close()
                raise
        _, file, data, columns = self._opened
        return (file, columns, *self.bounds(file, data, item))

    def bounds(self, file: TextFile, data: int, item: Item) -> Tuple[int, int]:
        """Return where the rows of a part begin and end.

        :param data: where those of the file begin
        """
        first, end = item[FIRST], item[END]
        if not (self._exact or file.is_stream):
            first, end = next_line(file, first), next_line(file, end)
        return max(first, data), max(end, data)

    def begin(self, file: TextFile) -> Tuple[int, _Columns]:
        """Return where the rows of a file begin, and its columns.

        :raises LoadError: when it is not what the dataset says it is
        """
        start, _, _ = first_record(file, self._parser.records, self._encoding)
        return start, self.columns


class DelimitedParts(TextParts):
    """Parts of files of delimited text."""

    def __init__(self, document: Dict[str, Any], pandas: Any) -> None:
        encoding = document["encoding"]
        super().__init__(document, DelimitedParser(document, bytes_encoding(encoding), pandas), encoding)
        self._header: str = document["header"]
        self._fields: List[str] = document["fields"]
        self._first_path: str = document["first_path"]

    def begin(self, file: TextFile) -> Tuple[int, _Columns]:
        """See :class:`TextParts`."""
        start, record, end = first_record(file, self._parser.records, self._encoding)
        if self._header == "no_header" or (
            self._header == "from_first_file" and file.path != self._first_path
        ):
            return start, self.columns
        if not record:
            return end, self.columns
        fields = self._parser.fields(record)
        if fields == self._fields:
            return end, self.columns
        types = dict(self.columns)
        names = column_names(fields)
        if self._header != "all_files_different_headers" or not types.keys() >= set(names):
            raise LoadError(
                f"{file.path} has the header {_listed(fields)}; that of the first file is "
                f"{_listed(self._fields)}. Is header all_files_different_headers?"
            )
        return end, [(name, types[name]) for name in names]


class JsonLinesParts(TextParts):
    """Parts of files of JSON lines."""

    def __init__(self, document: Dict[str, Any], pandas: Any) -> None:
        encoding = document["encoding"]
        parser = JsonLinesParser(bytes_encoding(encoding), document["others"], pandas)
        super().__init__(document, parser, encoding)


class ParquetParts:
    """Parts of Parquet files."""

    def __init__(self, document: Dict[str, Any], pandas: Any) -> None:
        self.columns: _Columns = [(name, kind) for name, kind in document["columns"]]
        self._condition: Optional[Condition] = document.get("condition")
        self._pandas = pandas
        # The last file, and what it is known by.
        self._opened: Optional[Tuple[Any, ParquetRows]] = None
        # Of the rows that were read last.
        self._numbers: Sequence[int] = ()

    def parse(self, item: Item, place: str) -> Parsed:
        """Return the rows of a part.

        :param place: where the file is, or a copy that need have no more of it than the row group
        :raises LoadError: when they cannot be decoded
        """
        path = item[0]
        known_by: Any = path if place == path else identity(place)
        if self._opened is None or self._opened[0] != known_by:
            self.close()
            rows = ParquetRows(path, self.columns, self._condition, self._pandas, place)
            self._opened = known_by, rows
        parsed, self._numbers = self._opened[1].read(item[FIRST], item[END])
        if parsed.items < item[UNTIL]:
            raise InputChangedError(
                f"{path}: the filter keeps {parsed.items} of the rows {item[FIRST]} to {item[END]}, and kept "
                f"{item[UNTIL]} when it was split"
            )
        return parsed

    def count(self, items: Sequence[Item], places: Optional[Sequence[str]]) -> int:
        """Return how many rows parts have; split has looked into the files."""
        return sum(item[UNTIL] - item[ONLY] for item in items)

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def where(self, item: Item, places: List[int]) -> List[str]:
        """Return the row numbers in the file, from 0, of the rows at some places of a part."""
        return [f"row {self._numbers[place]}" for place in places]


_PARTS: Dict[str, Any] = {
    "delimited": DelimitedParts,
    "json_lines": JsonLinesParts,
    "parquet": ParquetParts,
    "sql": SqlParts,
}


def file_parts(document: Dict[str, Any], pandas: Any = None) -> Any:
    """Return what reads parts of the files of a source.

    :param document: the source, as the plan has it
    :param pandas: the module; None for one who only counts rows
    """
    return _PARTS[document["format"]](document, pandas)


def _listed(fields: Sequence[str]) -> str:
    shown = ", ".join(map(repr, fields[:_FIELDS_SHOWN]))
    return shown if len(fields) <= _FIELDS_SHOWN else f"{shown}, … ({len(fields)} fields)"
