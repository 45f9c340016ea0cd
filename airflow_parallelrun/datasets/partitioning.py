# SPDX-License-Identifier: Apache-2.0
"""Tables partitioned by keys, as Hive lays them out: a folder ``key=value`` for each value of each key."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import urllib.parse
from collections import OrderedDict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.exceptions import (
    InputUnreadableError,
    InvalidValueError,
    OutputExistsError,
    UnknownNameError,
)
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.worker.loading import Loader
from airflow_parallelrun.worker.partitions import HIVE_NULL
from airflow_parallelrun.worker.spool import Copies

from .connections import connected
from .copies import Copier
from .table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .listing import ListedFile
    from .tabular_dataset import TabularDataset

# Rows that are read at a time.
_READ = TableSize(1 << 24, "bytes")
# Files that are written at a time; a key that comes again after so many others gets another file.
_FILES_OPEN = 200

_FOLDER = re.compile(r"([^=/]+)=([^/]+)")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


def hive_format(keys: Iterable[str]) -> str:
    """Return the partition format of a layout by these keys."""
    return "/".join([*(f"{key}={{{key}}}" for key in keys), "*"])


def found_keys(files: Sequence[ListedFile]) -> dict[str, str]:
    """Return the keys that the folders of files are named by, and their types; empty when they are not.

    :return: ``int64`` for a key whose values all are whole numbers, else ``string``
    """
    values: dict[str, set[str]] = {}
    for place, file in enumerate(files):
        found: list[tuple[str, str]] = []
        for folder in reversed(os.path.dirname(file.path).split("/")):
            match = _FOLDER.fullmatch(folder)
            if match is None:
                break
            found.insert(0, (match[1], match[2]))
        if place and [key for key, _ in found] != list(values):
            return {}
        for key, value in found:
            values.setdefault(key, set()).add(value)
    return {
        key: "int64" if all(_WHOLE.fullmatch(value) for value in found) else "string"
        for key, found in values.items()
    }


def write_partitions(dataset: TabularDataset, keys: Sequence[str], target: str) -> dict[str, str]:
    """Write a table into a folder, partitioned; the folder is there when all of it is.

    :return: the types of the keys
    :raises OutputExistsError: when there is something in the folder
    :raises DatasetError: when the table cannot be read, or one of its rows does not fit
    :raises UnknownNameError: for a key that is no column
    """
    if os.path.isdir(target) and os.listdir(target):
        raise OutputExistsError(target)
    files = list(dataset.files())
    table = Table(dataset, files, _READ)
    for key in keys:
        if key not in table.source["shown"]:
            raise UnknownNameError("column", key, table.source["shown"])
    if not set(table.source["shown"]) - set(keys):
        raise InvalidValueError("partition_keys", list(keys), "some of the columns, not all of them")
    staging = f"{target.rstrip('/')}.new-{secrets.token_hex(4)}"
    writers = _Writers(staging, dict(table.source["columns"]))
    types: dict[str, str] = {}
    try:
        for frame in _frames(table):
            types = types or {key: _key_type(frame[key]) for key in keys}
            for values, rows in frame.groupby(list(keys), dropna=False, sort=False):
                writers.write(_folder(keys, values), rows.drop(columns=list(keys)))
        writers.close()
        if os.path.isdir(target):
            os.rmdir(target)
        os.rename(staging, target)
    except BaseException:
        writers.close()
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return types


def _frames(table: Table) -> Iterator[Any]:
    """Yield all rows, some at a time.

    :raises InputUnreadableError: when one does not fit
    """
    source = connected(table.source)
    with tempfile.TemporaryDirectory(prefix="parallelrun-") as spool:
        loader = Loader([source if table.is_query else {**source, "spool": spool}], [])
        for number, (file, parts) in enumerate(groupby(table.parts(), lambda part: part.file)):
            copies = Copies(spool, number)
            if is_remote(file.path) and not table.is_query:
                # All of it is read, so it is copied as a whole.
                Copier({}).make_all([[*file]], copies)
            for part in parts:
                loaded = loader.load([0, part.item], ordinal=number)
                if loaded.wrong is not None:
                    raise InputUnreadableError(file.path, str(loaded.wrong))
                if loaded.value is not None:
                    yield loaded.value
            shutil.rmtree(copies.folder, ignore_errors=True)


class _Writers:
    """Parquet files being written, a few at a time, all with the same columns and types.

    :param types: of the columns; others have the type of the first rows
    """

    def __init__(self, root: str, types: dict[str, str]) -> None:
        self._root = root
        self._types = types
        self._schema: Any = None
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._counts: dict[str, int] = {}
        os.makedirs(root)

    def write(self, folder: str, rows: Any) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._schema is None:
            found = pyarrow.Schema.from_pandas(rows, preserve_index=False)
            self._schema = pyarrow.schema([self._field(field) for field in found])
        if folder not in self._open:
            os.makedirs(os.path.join(self._root, folder), exist_ok=True)
            number = self._counts[folder] = self._counts.get(folder, -1) + 1
            path = os.path.join(self._root, folder, f"part-{number}.parquet")
            self._open[folder] = parquet.ParquetWriter(path, self._schema)
            if len(self._open) > _FILES_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(folder)
        self._open[folder].write_table(
            pyarrow.Table.from_pandas(rows, schema=self._schema, preserve_index=False)
        )

    def _field(self, field: Any) -> Any:
        """Return a column's field; where the first rows have no value they do not say what it is."""
        import pyarrow

        kind = self._types.get(field.name, "")
        if kind.startswith("datetime"):
            return field.with_type(pyarrow.timestamp("ns"))
        name = {"string": "string", "int64": "int64", "float64": "float64", "bool": "bool_"}.get(kind)
        return field if name is None else field.with_type(getattr(pyarrow, name)())

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def _key_type(column: Any) -> str:
    return {"i": "int64", "f": "float64"}.get(column.dtype.kind, "string")


def _folder(keys: Sequence[str], values: tuple[Any, ...]) -> str:
    return "/".join(f"{key}={_value(value)}" for key, value in zip(keys, values, strict=True))


def _value(value: Any) -> str:
    """Return a value as the name of a folder has it; an empty text is a missing value, as in Hive."""
    text = "" if value is None or value != value else str(value)
    return urllib.parse.quote(text, safe=" ") or HIVE_NULL
