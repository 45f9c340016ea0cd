# SPDX-License-Identifier: Apache-2.0
"""Tables as a dataset: delimited text, JSON lines, Parquet, queries."""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_parallelrun import rules
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NotSupportedError

from .dataset_input import DatasetInput
from .file_dataset import FileDataset, Path, partition_keys_of, texts
from .filtering import Column, Condition, check_document, document_of
from .listing import ListedFile, list_files, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DELIMITED, JSON_LINES, PARQUET, SQL = "delimited", "json_lines", "parquet", "sql"

# How the original's successor calls them. True and False are the original's own.
SAME_HEADERS, NO_HEADER = "all_files_same_headers", "no_header"
FIRST_HEADER, OTHER_HEADERS = "from_first_file", "all_files_different_headers"
_HEADERS = (SAME_HEADERS, NO_HEADER, FIRST_HEADER, OTHER_HEADERS)

# The original's names for what Python calls otherwise.
_ENCODINGS = {"utf8bom": "utf-8-sig", "windows1252": "cp1252", "iso88591": "latin-1"}

_FORMATS = (DELIMITED, JSON_LINES, PARQUET, SQL)
_PASSWORD = re.compile(r"[^/]*://[^/@:]*:[^/]*@")
# A file's path in a URL; a database in memory has none.
_SQLITE = re.compile(r"sqlite:///([^:].*)")
_QUERY_RULES = {
    "connection": "the name of an Airflow connection, or of one that the environment has",
    "key": "the name of a column: mini-batches are ranges of it",
}

_TYPES = ("string", "int64", "float64", "bool", "datetime")


class DataType:
    """Types of columns for ``set_column_types``, by the original's names; the texts will do, too."""

    @staticmethod
    def to_string() -> str:
        """Text."""
        return "string"

    @staticmethod
    def to_long() -> str:
        """Whole numbers of 64 bits."""
        return "int64"

    @staticmethod
    def to_float() -> str:
        """Floating-point numbers of 64 bits."""
        return "float64"

    @staticmethod
    def to_bool() -> str:
        """True and False."""
        return "bool"

    @staticmethod
    def to_datetime(formats: str | None = None) -> str:
        """Dates and times.

        :param formats: one format, as of ``strptime``; None = ISO 8601
        """
        return "datetime" if formats is None else f"datetime:{formats}"


@dataclass(frozen=True)
class TabularDataset:
    """Tables in files, or a query; make it with a ``from_…`` method, which says what everything means.

    A file is cut into mini-batches of rows; none has rows of two files. ``run()`` gets each as a DataFrame
    with the same columns of the same types. Of a query ``paths`` has the text.
    """

    paths: tuple[str, ...]
    format: str = DELIMITED
    partition_format: str | None = None
    include_path: bool = False
    column_types: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    dropped_columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    separator: str = ","
    header: str = SAME_HEADERS
    infer_column_types: bool = True
    support_multi_line: bool = False
    empty_as_string: bool = False
    first_row: int = 0
    row_count: int | None = None
    connection: str | None = None
    key: str | None = None
    condition: list[Any] | None = None

    def __post_init__(self) -> None:
        """Check and normalise every field."""
        object.__setattr__(self, "paths", texts(self.paths))
        partition_keys_of(self.partition_format)
        if self.format not in _FORMATS:
            raise InvalidValueError("format", self.format, f"one of {', '.join(_FORMATS)}")
        self._check_query()
        if self.condition is not None:
            check_document(self.condition)
            if self.format not in (PARQUET, SQL):
                instead = "Leave rows out in run(): text must be parsed before it can be compared."
                raise NotSupportedError(f"filter of a table of {self.format} text", instead)
        object.__setattr__(self, "header", _header(self.header))
        object.__setattr__(self, "encoding", _encoding(self.encoding))
        object.__setattr__(self, "column_types", _column_types(self.column_types))
        for name in ("include_path", "infer_column_types", "support_multi_line", "empty_as_string"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValueError(name, getattr(self, name), "True or False")
        if len(self.separator) != 1 or not self.separator.isascii() or self.separator in '"\r\n\0':
            rule = "one ASCII character, and neither a quotation mark nor a line break"
            raise InvalidValueError("separator", self.separator, rule)
        for name in ("first_row", "row_count"):
            value = getattr(self, name)
            if not (name == "row_count" and value is None) and not (rules.is_int(value) and value >= 0):
                raise InvalidValueError(name, value, "a whole number, 0 or more")
        if self.columns is not None:
            object.__setattr__(self, "columns", _names("columns", self.columns))
        object.__setattr__(self, "dropped_columns", _names("dropped_columns", self.dropped_columns))

    def _check_query(self) -> None:
        if not self.is_query:
            for name in ("connection", "key"):
                if getattr(self, name) is not None:
                    raise InvalidValueError(name, getattr(self, name), "left out: the table is no query")
            return
        if len(self.paths) > 1:
            raise InvalidValueError("query", list(self.paths), "one query")
        object.__setattr__(self, "paths", (self.paths[0].strip().rstrip(";"),))
        for name in ("connection", "key"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise InvalidValueError(name, value, _QUERY_RULES[name])
        if _PASSWORD.match(str(self.connection)):
            rule = f"a name: a URL would stand in the plan, with its password. {_QUERY_RULES['connection']}"
            raise InvalidValueError("connection", "(a URL with a password)", rule)
        if self.partition_format is not None or self.include_path:
            raise ConfigurationError("a query has no paths: leave partition_format and include_path out.")
        if self.is_limited:
            raise ConfigurationError("skip and take of a query: say it in the query (LIMIT, OFFSET).")

    @classmethod
    def of(cls, paths: object, **options: Any) -> TabularDataset:
        """Make it of one path or several, as a run's conf has them, and of its other fields."""
        return cls(texts(paths), **options)

    @classmethod
    def from_delimited_files(
        cls,
        path: Path | Sequence[Path],
        validate: bool = True,
        include_path: bool = False,
        infer_column_types: bool = True,
        set_column_types: Mapping[str, str] | None = None,
        separator: str = ",",
        header: bool | str = True,
        partition_format: str | None = None,
        support_multi_line: bool = False,
        empty_as_string: bool = False,
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Make a dataset of text files with a separator between fields, such as CSV.

        :param path: one path or several: files, folders, globs
        :param validate: accepted as in the original; the input is always checked before a node starts
        :param include_path: a column ``Path`` with the path of each row's file
        :param infer_column_types: find types out from a sample; else every column is text
        :param set_column_types: types of some columns: ``DataType.to_long()`` and so on, or ``"int64"``,
            ``"float64"``, ``"bool"``, ``"string"``, ``"datetime"``, ``"datetime:<format>"``
        :param separator: one ASCII character
        :param header: True or ``all_files_same_headers``: each file begins with the same names of columns.
            False or ``no_header``: none has names, and columns are ``Column1``, ``Column2``, ….
            ``from_first_file``: the first file alone has them. ``all_files_different_headers``: each has its
            own, and the dataset has the columns of all
        :param partition_format: as of :class:`FileDataset`; the keys are columns, too
        :param support_multi_line: a line break within quotation marks is part of the field. Split then reads
            every file once to see where rows begin
        :param empty_as_string: an empty field of a column of text is an empty text, not a missing value
        :param encoding: one of Python's, or the original's name for it
        :raises InvalidValueError: for what can never work
        """
        return cls(
            texts(path),
            DELIMITED,
            partition_format=partition_format,
            include_path=include_path,
            column_types=dict(set_column_types or {}),
            encoding=encoding,
            separator=separator,
            header=_header(header),
            infer_column_types=infer_column_types,
            support_multi_line=support_multi_line,
            empty_as_string=empty_as_string,
        )

    @classmethod
    def from_json_lines_files(
        cls,
        path: Path | Sequence[Path],
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Mapping[str, str] | None = None,
        partition_format: str | None = None,
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Make a dataset of text files with a JSON object on each line.

        The columns are the keys that a sample of the rows has; a row with another key is a failed row. The
        parameters are those of :meth:`from_delimited_files`.
        """
        return cls(
            texts(path),
            JSON_LINES,
            partition_format=partition_format,
            include_path=include_path,
            column_types=dict(set_column_types or {}),
            encoding=encoding,
        )

    @classmethod
    def from_parquet_files(
        cls,
        path: Path | Sequence[Path],
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Mapping[str, str] | None = None,
        partition_format: str | None = None,
    ) -> TabularDataset:
        """Make a dataset of Parquet files.

        The columns and their types are the first file's; another file must have them, too, and no other
        ones. The parameters are those of :meth:`from_delimited_files`.
        """
        return cls(
            texts(path),
            PARQUET,
            partition_format=partition_format,
            include_path=include_path,
            column_types=dict(set_column_types or {}),
        )

    @classmethod
    def from_sql_query(
        cls,
        query: str,
        validate: bool = True,
        set_column_types: Mapping[str, str] | None = None,
        *,
        connection: str,
        key: str,
    ) -> TabularDataset:
        """Make a dataset of what a database answers.

        A mini-batch is the rows whose *key* is in a range. Split reads the keys of all rows, in order, so
        that each has as many rows as it should; rows of equal keys stay together.

        :param query: one that can stand in brackets: ``SELECT … FROM …``, without ``ORDER BY``
        :param validate: accepted as in the original; the query is always tried before a node starts
        :param set_column_types: as of :meth:`from_delimited_files`
        :param connection: name of an Airflow connection; or of what the environment has as
            ``PARALLELRUN_CONNECTION_<NAME>``, a URL as SQLAlchemy has it; or such a URL without a password
        :param key: a column of whole numbers, texts or dates, best one with an index, such as the primary key
        :raises InvalidValueError: for what can never work
        """
        types = dict(set_column_types or {})
        return cls(texts(query), SQL, column_types=types, connection=connection, key=key)

    @property
    def item(self) -> str:
        """What its items are, as people are told."""
        return "row that the filter keeps" if self.condition else "row"

    @property
    def is_query(self) -> bool:
        """Whether the rows come from a database."""
        return self.format == SQL

    def files(self) -> Iterator[ListedFile]:
        """List the files; a query has one, which stands for its database.

        :raises DatasetError: when they cannot be listed
        """
        if not self.is_query:
            return list_files(self.paths)
        place = str(self.connection)
        return iter([ListedFile(place if "://" in place else f"sql://{place}", 0, None, None)])

    def resolve_database(self, base_directory: str) -> TabularDataset:
        """The same query; the URL of a SQLite file has an absolute path.

        :param base_directory: what a relative path is relative to
        """
        file = _SQLITE.fullmatch(str(self.connection))
        return replace(self, connection=f"sqlite:///{local_path(file[1], base_directory)}") if file else self

    @property
    def partition_keys(self) -> tuple[str, ...]:
        """The keys in the paths; empty without a partition format."""
        return partition_keys_of(self.partition_format)

    @property
    def is_limited(self) -> bool:
        """Whether some rows at the beginning or at the end are left out."""
        return self.first_row > 0 or self.row_count is not None

    def __getitem__(self, name: str) -> Column:
        """A column, to be compared in :meth:`filter`.

        :raises InvalidValueError: for anything else than a name; else a dataset could be iterated, forever
        """
        if not isinstance(name, str):
            raise InvalidValueError("the column", name, "a name")
        return Column(name)

    def filter(self, condition: Condition) -> TabularDataset:
        """The same dataset with those rows only of which a condition is true: of Parquet files or a query.

        Split counts them, and reads no more for it than the columns of the condition.

        :param condition: such as ``(dataset["income"] > 100) & ~dataset["store"].isin([1, 2])``. The columns
            need not be kept; those of partition keys are not known here
        :raises NotSupportedError: for text
        :raises ConfigurationError: behind ``skip`` or ``take``, which count rows that are kept
        """
        document = document_of(condition)
        if self.is_limited:
            raise ConfigurationError("filter after skip or take: filter first, they count what is left.")
        both = document if self.condition is None else ["and", self.condition, document]
        return replace(self, condition=both)

    def keep_columns(self, columns: str | Sequence[str]) -> TabularDataset:
        """The same dataset with these columns only, in this order; a Parquet file's others are not read."""
        return replace(self, columns=_names("columns", columns), dropped_columns=())

    def drop_columns(self, columns: str | Sequence[str]) -> TabularDataset:
        """The same dataset without these columns.

        :raises ConfigurationError: after :meth:`keep_columns`
        """
        if self.columns is not None:
            raise ConfigurationError("drop_columns after keep_columns: leave them out of keep_columns.")
        return replace(self, dropped_columns=(*self.dropped_columns, *_names("columns", columns)))

    def skip(self, count: int) -> TabularDataset:
        """The same dataset without its first rows; split then reads text files to find rows in them."""
        skipped = _row_count(count)
        rows = None if self.row_count is None else max(0, self.row_count - skipped)
        return replace(self, first_row=self.first_row + skipped, row_count=rows)

    def take(self, count: int) -> TabularDataset:
        """The same dataset with no more than its first rows; split then reads text files that far."""
        rows = _row_count(count)
        return replace(self, row_count=rows if self.row_count is None else min(rows, self.row_count))

    def partition_by(
        self,
        partition_keys: Sequence[str],
        target: Path,
        name: str | None = None,
        show_progress: bool = True,
        partition_as_file_dataset: bool = False,
    ) -> TabularDataset | FileDataset:
        """Copy the table into a folder, as Parquet and partitioned: ``target/key=value/…/part-0.parquet``.

        It is done here and now, a few megabytes at a time: call it in a task, not where a DAG is parsed.
        A missing value, and an empty text, become ``key=__HIVE_DEFAULT_PARTITION__``.

        :param partition_keys: columns whose values make the partitions
        :param target: the folder; it is there when the copy is complete, and must be empty before
        :param name: accepted as in the original; datasets are not registered
        :param show_progress: accepted as in the original; nothing is shown
        :param partition_as_file_dataset: return the copy as files, whose paths ``run()`` gets
        :return: the copy. Elsewhere ``from_parquet_files(target)`` finds the keys again by itself
        :raises OutputExistsError: when there is something in the folder
        :raises DatasetError: when the table cannot be read, or one of its rows does not fit
        """
        from .partitioning import hive_format, write_partitions

        keys, folder = _names("partition_keys", partition_keys), os.path.abspath(target)
        types = write_partitions(self, keys, folder)
        if partition_as_file_dataset:
            return FileDataset((folder,), hive_format(keys))
        return TabularDataset((folder,), PARQUET, hive_format(keys), column_types=types)

    def as_direct(self) -> DatasetInput:
        """Use it as an input."""
        return DatasetInput(self, "direct").check_mode()

    def as_named_input(self, name: str) -> DatasetInput:
        """Use it as an input with a name."""
        return DatasetInput(self, "direct", name).check_mode()


def _row_count(value: int) -> int:
    if not rules.is_int(value) or value < 0:
        raise InvalidValueError("the number of rows", value, "a whole number, 0 or more")
    return value


def _header(value: object) -> str:
    if isinstance(value, bool):
        return SAME_HEADERS if value else NO_HEADER
    if value not in _HEADERS:
        raise InvalidValueError("header", value, f"True, False, or one of {', '.join(_HEADERS)}")
    return str(value)


def _encoding(value: object) -> str:
    try:
        name = codecs.lookup(_ENCODINGS.get(str(value).lower(), str(value))).name
        "\n".encode(name)
    except (LookupError, ValueError) as error:
        raise InvalidValueError("encoding", value, "a text encoding that Python knows") from error
    return name


def _column_types(value: Mapping[str, str]) -> dict[str, str]:
    for name, kind in dict(value).items():
        known = isinstance(kind, str) and (kind in _TYPES or kind.startswith("datetime:"))
        if not isinstance(name, str) or not known:
            rule = f"one of {', '.join(_TYPES)}, or datetime:<format>"
            raise InvalidValueError(f"the type of the column {name!r}", kind, rule)
    return dict(value)


def _names(what: str, value: str | Sequence[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidValueError(what, value, "names of columns, each once")
    return names
