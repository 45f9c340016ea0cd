# SPDX-License-Identifier: Apache-2.0
"""A query as a table: its columns and types, and the cuts, by ranges of its key."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import (
    EmptyInputError,
    InvalidValueError,
    QueryError,
    UnknownNameError,
)
from airflow_parallelrun.worker.conditions import columns_of
from airflow_parallelrun.worker.errors import LoadError
from airflow_parallelrun.worker.sql import Query, as_json, key_type, type_of

from . import connections
from .listing import FilePart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.config import TableSize

    from .listing import ListedFile
    from .tabular_dataset import TabularDataset

# From so many rows types are found out, and how many bytes a row has.
SAMPLE_ROWS = 1000


class SqlQuery:
    """The query of a dataset.

    :param dataset: the dataset
    :param files: one, which stands for the database
    :param size: of mini-batches
    :raises EmptyInputError: when there is no row
    :raises QueryError: when the database cannot be reached, or refuses
    :raises ConfigurationError: when there is no such connection, or no such key
    """

    #: What becomes of columns that nobody wants: they are not read.
    unwanted_type = None

    def __init__(self, dataset: TabularDataset, files: Sequence[ListedFile], size: TableSize) -> None:
        assert dataset.connection is not None and dataset.key is not None
        (self._text,) = dataset.paths
        self._connection, self._key = dataset.connection, dataset.key
        (self._file,) = files
        url = connections.url(self._connection)
        with self._told():
            self._query = Query(url, self._text, self._key, dataset.condition)
            names = self._names = self._query.columns()
            if len(set(names)) < len(names):
                raise QueryError(self._connection, f"two columns have one name: {', '.join(names)}")
            for kind, name in [("key", self._key), *(("column", n) for n in columns_of(dataset.condition))]:
                if name not in names:
                    raise UnknownNameError(kind, name, names)
            self._rows = self._query.first(names, SAMPLE_ROWS)
        if not self._rows:
            raise EmptyInputError([self._text], dataset.item)
        self._first_key = self._rows[0][names.index(self._key)]
        if not key_type(self._first_key):
            rule = f"a column of whole numbers, texts or dates, none missing; it has {self._first_key!r}"
            raise InvalidValueError("key", self._key, rule)
        self._rows_each = size.count
        if size.unit != "rows":
            sizes = sum(len(str(value)) + 1 for row in self._rows for value in row)
            self._row_bytes = max(1, sizes // len(self._rows))
            self._rows_each = max(1, size.count // self._row_bytes)
        else:
            self._row_bytes = 1

    def source(self) -> dict[str, Any]:
        """Return what processes need to know to read a part.

        :raises QueryError: when the database refuses
        """
        columns = zip(*self._rows, strict=True)
        types = {name: type_of(values) for name, values in zip(self._names, columns, strict=True)}
        whole = [name for name, kind in types.items() if kind in ("int64", "bool")]
        with self._told():
            holed = dict(zip(whole, self._query.missing(whole), strict=True)) if whole else {}
        for name, count in holed.items():
            if count:  # as pandas has it where a value is missing
                types[name] = "float64" if types[name] == "int64" else "object"
        return {
            "connection": self._connection,
            "query": self._text,
            "key": self._key,
            "key_type": key_type(self._first_key),
            "columns": [[name, kind or "object"] for name, kind in types.items()],
        }

    def parts(self) -> Iterator[FilePart]:
        """Yield ranges of the key with about as many rows as a mini-batch has; equal keys stay together.

        :raises QueryError: when the database refuses, or a row has no key
        """
        first, last, rows = None, self._first_key, 0
        with self._told(), contextlib.closing(self._query):
            for key in self._query.each_key():
                if type(key) is not type(last):
                    problem = f"the key {self._key!r} has {last!r} and {key!r}, which are not of one type"
                    raise QueryError(self._connection, problem)
                if rows >= self._rows_each and not _are_one(last, key):
                    yield self._part(first, last, rows)
                    rows = 0
                first, last, rows = (first if rows else key), key, rows + 1
        if rows:
            yield self._part(first, last, rows)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ImportError, LoadError) as error:
            raise QueryError(self._connection, str(error)) from error

    def _part(self, first: Any, last: Any, rows: int) -> FilePart:
        return FilePart(self._file, as_json(first), as_json(last), rows * self._row_bytes, rows)


def _are_one(key: Any, other: Any) -> bool:
    """Tell whether a database may take keys for equal: many do not tell cases of letters apart."""
    if isinstance(key, str) and isinstance(other, str):
        return key.rstrip().casefold() == other.rstrip().casefold()
    return bool(key == other)
