# SPDX-License-Identifier: Apache-2.0
"""The text files of a table: their columns and types, found out once from a sample, and the cuts."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import EmptyInputError, InputUnreadableError, InvalidValueError
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.worker.delimited import (
    MISSING,
    DelimitedParser,
    column_names,
    read_csv_arguments,
    with_newlines,
)
from airflow_parallelrun.worker.errors import InputChangedError, LoadError
from airflow_parallelrun.worker.json_lines import JsonLinesParser, type_of
from airflow_parallelrun.worker.records import TextFile, bytes_encoding, first_record, is_stream

from .listing import FilePart
from .remote_file import ReadAhead, RemoteFile
from .tabular_dataset import DELIMITED, FIRST_HEADER, NO_HEADER, OTHER_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.config import TableSize

    from .listing import ListedFile
    from .tabular_dataset import TabularDataset

logger = logging.getLogger(__name__)

# What types are found out from: the beginnings of some files, spread over all of them.
SAMPLE_FILES = 8
SAMPLE_BYTES = 1 << 20


class TextFiles:
    """The files of a dataset of delimited text or JSON lines.

    :param dataset: the dataset
    :param files: its files, in order; those without a byte have no rows and are left out
    :param size: of mini-batches
    :raises EmptyInputError: when all are empty
    """

    #: What becomes of columns that nobody wants: every value fits.
    unwanted_type = "string"

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        self._dataset = dataset
        self._files = [file for file in files if file.size]
        if not self._files:
            raise EmptyInputError(list(dataset.paths), "row")
        self._size = size
        self._encoding = bytes_encoding(dataset.encoding)
        multi_line = dataset.format == DELIMITED and dataset.support_multi_line
        self._exact = size.unit == "rows" or multi_line or dataset.is_limited
        self._parser: DelimitedParser | JsonLinesParser

    def parts(self) -> Iterator[FilePart]:
        """Yield the files in parts of about the size of a mini-batch.

        :raises InputUnreadableError: when a file that must be read for it cannot be
        """
        streams = [file.path for file in self._files if is_stream(file.path, self._dataset.encoding)]
        if streams:
            logger.warning(
                "%d files of the table are compressed, or in an encoding without ASCII in it, such as %s: "
                "split reads them once, and so does each process that gets mini-batches of them",
                len(streams),
                streams[0],
            )
        for file in self._files:
            if self._exact or is_stream(file.path, self._dataset.encoding):
                yield from self._scanned(file)
            else:
                # Pieces of even size; the rows of one are those that begin in it.
                count = -(-file.size // self._size.count)
                cuts = [file.size * n // count for n in range(count + 1)]
                for first, end in pairwise(cuts):
                    yield FilePart(file, first, end, end - first, None)

    def _scanned(self, file: ListedFile) -> Iterator[FilePart]:
        with self._opened(file) as text:
            first = end = self._start(file, text)
            rows = 0
            for at, record in self._parser.records.of(text, first):
                if (rows if self._size.unit == "rows" else end - first) >= self._size.count:
                    yield FilePart(file, first, at, at - first, rows)
                    first, rows = at, 0
                end, rows = at + len(record), rows + 1
            if rows:
                yield FilePart(file, first, end, end - first, rows)

    def _start(self, file: ListedFile, text: TextFile) -> int:
        """Return where the rows of a file begin."""
        start, _, end = first_record(text, self._parser.records, self._dataset.encoding)
        return end if self._has_header(file) else start

    def _has_header(self, file: ListedFile) -> bool:
        header = self._dataset.header
        is_bare = header == NO_HEADER or (header == FIRST_HEADER and file.path != self._files[0].path)
        return self._dataset.format == DELIMITED and not is_bare

    def _sample(self) -> Iterator[tuple[ListedFile, list[bytes]]]:
        """Yield the records at the beginning of some files."""
        last, count = len(self._files) - 1, min(len(self._files), SAMPLE_FILES)
        for n in range(count):
            file = self._files[n * last // max(1, count - 1)]
            with self._opened(file) as text:
                start = self._start(file, text)
                records = self._parser.records.within(text, start, start + SAMPLE_BYTES)
                yield file, [record for _, record in records]

    @contextlib.contextmanager
    def _opened(self, file: ListedFile) -> Iterator[TextFile]:
        try:
            source = ReadAhead(RemoteFile(file)) if is_remote(file.path) else None
            with contextlib.closing(TextFile(file.path, self._dataset.encoding, source)) as text:
                yield text
        except OSError as error:
            raise InputUnreadableError(file.path, error.strerror or str(error)) from error
        except (InputChangedError, LoadError) as error:
            raise InputUnreadableError(file.path, str(error)) from error


class JsonLinesFiles(TextFiles):
    """The files of a dataset of JSON lines."""

    unwanted_type = "object"

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        super().__init__(dataset, files, size)
        self._parser = JsonLinesParser(self._encoding, others=True, pandas=None)

    def source(self) -> dict[str, Any]:
        """Return what processes need to know to read a part.

        :raises InputUnreadableError: when there is no object in the sample
        """
        others = self._dataset.columns is not None
        values: dict[str, list[Any]] = {}
        rows = 0
        for _, records in self._sample():
            for record in records:
                with contextlib.suppress(ValueError, RecursionError):  # it will be a failed row
                    for name, value in self._parser.row(record).items():  # type: ignore[union-attr]
                        column = values.setdefault(name, [])
                        column.extend([None] * (rows - len(column)))
                        column.append(value)
                    rows += 1
        if not rows:
            problem = f"there is no line with a JSON object in its first {SAMPLE_BYTES} bytes"
            raise InputUnreadableError(self._files[0].path, problem)
        columns = [
            [name, type_of(column if len(column) == rows else [*column, None])]
            for name, column in values.items()
        ]
        encoding = self._dataset.encoding
        return {"encoding": encoding, "exact": self._exact, "others": others, "columns": columns}


class DelimitedFiles(TextFiles):
    """The files of a dataset of delimited text."""

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        super().__init__(dataset, files, size)
        self._document = {
            "encoding": dataset.encoding,
            "exact": self._exact,
            "separator": dataset.separator,
            "header": dataset.header,
            "support_multi_line": dataset.support_multi_line,
            "empty_as_string": dataset.empty_as_string,
            "first_path": self._files[0].path,
        }
        self._parser: DelimitedParser = DelimitedParser(self._document, self._encoding, None)

    def source(self) -> dict[str, Any]:
        """Return what processes need to know to read a part.

        :raises InputUnreadableError: when a file of the sample cannot be read
        """
        every = self._dataset.header == OTHER_HEADERS
        headers = [self._fields(file) for file in (self._files if every else self._files[:1])]
        names = list(dict.fromkeys(name for fields in headers for name in column_names(fields)))
        everywhere = set(names).intersection(*map(column_names, headers))
        types: dict[str, str | None] = dict.fromkeys(names)
        if self._dataset.infer_column_types:
            for file, records in self._sample():
                for name, kind in self._inferred(self._fields(file) if every else headers[0], records):
                    types[name] = _either(types[name], kind)
        for name, kind in self._dataset.column_types.items():
            if name in types and name not in everywhere and kind in ("int64", "bool"):
                rule = "one that can be missing, such as float64 or string: not every file has the column"
                raise InvalidValueError(f"the type of the column {name!r}", kind, rule)
        columns = [[name, _with_missing(kind, name not in everywhere)] for name, kind in types.items()]
        return {**self._document, "fields": headers[0], "columns": columns}

    def _fields(self, file: ListedFile) -> list[str]:
        with self._opened(file) as text:
            record = first_record(text, self._parser.records, self._dataset.encoding)[1]
            fields = self._parser.fields(record)
        if self._dataset.header == NO_HEADER:
            return [f"Column{number}" for number in range(1, len(fields) + 1)]
        return fields

    def _inferred(self, fields: list[str], records: list[bytes]) -> Iterator[tuple[str, str | None]]:
        """Yield the types that pandas finds in records; None where all values are missing."""
        names = column_names(fields)
        plain = [(name, "string") for name in names]
        separator, is_text = self._dataset.separator.encode(), self._is_text(b"".join(records))
        # A mark that is not closed would take the next records with it. Most records have none, and to see
        # that takes no parser.
        whole = [
            record
            for record in records
            if (is_text and b'"' not in record and record.count(separator) < len(names))
            or self._parser.problem(record, plain) is None
        ]
        if not whole or not names:
            return
        frame = self._read(b"".join(whole), names)
        for name in names:
            yield name, _type_of(frame[name])

    def _is_text(self, block: bytes) -> bool:
        try:
            block.decode(self._encoding)
        except UnicodeDecodeError:
            return False
        return True

    def _read(self, block: bytes, names: list[str]) -> Any:
        import pandas

        if not self._dataset.support_multi_line:
            block = with_newlines(block)
        with warnings.catch_warnings():
            # What it warns of are rows that do not fit; where they stand they will be failed rows.
            warnings.simplefilter("ignore", pandas.errors.ParserWarning)
            try:
                return pandas.read_csv(
                    io.BytesIO(block),
                    names=names,
                    na_values=sorted(MISSING),
                    encoding=self._encoding,
                    encoding_errors="replace",
                    on_bad_lines="skip",
                    **read_csv_arguments(self._dataset.separator, block),
                )
            except (ValueError, OverflowError) as error:
                problem = f"no types can be found in its first rows: {error}"
                raise InputUnreadableError(self._files[0].path, problem) from error


def _type_of(column: Any) -> str | None:
    if column.isna().all():
        return None
    known = {"int64": "int64", "float64": "float64", "bool": "bool"}
    return known.get(str(column.dtype), "string")


def _either(one: str | None, other: str | None) -> str | None:
    """Return the type that has the values of both."""
    if one is None or other is None or one == other:
        return one or other
    return "float64" if {one, other} == {"int64", "float64"} else "string"


def _with_missing(kind: str | None, has_missing: bool) -> str:
    """Return a type that has a missing value, if that is needed."""
    if has_missing and kind in ("int64", "bool"):
        return "float64" if kind == "int64" else "string"
    return kind or "string"
