# SPDX-License-Identifier: Apache-2.0
"""Loading: from a line of the plan to what ``run()`` gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

from .errors import InputChangedError
from .partitions import PartitionFormat

if TYPE_CHECKING:
    from .items import Item


class Loaded(NamedTuple):
    """A mini-batch, or a part of one.

    :param value: what run() gets; None when nothing of it could be loaded
    :param paths: for each item of the value, the path or URL that it is from
    :param items: how many it has, those that could not be loaded as well
    :param wrong: why these could not be loaded
    :param keys: the partition keys that make the mini-batch, with their values
    """

    value: Any
    paths: List[str]
    items: int
    wrong: Optional[Exception]
    keys: Dict[str, Any]


class Loader:
    """Loads the mini-batches of a run.

    :param sources: what split has found out of each input, as the plan has it
    :param partition_keys: what mini-batches are made by; empty when they are made by size
    """

    def __init__(self, sources: Sequence[Dict[str, Any]], partition_keys: Sequence[str]) -> None:
        self._sources = [_source(each, partition_keys) for each in sources]

    def load(self, line: List[Any], part: Optional[slice] = None) -> Loaded:
        """Load a mini-batch.

        :param line: the number of its input, and its items
        :param part: which of its items, where it is bisected
        """
        loaded: Loaded = self._sources[line[0]].load(line[1:], part)
        return loaded


class FileSource:
    """An input of files: run() gets their paths.

    :param pattern: where partition keys stand in a path
    :param keys: those that make a mini-batch
    """

    def __init__(self, pattern: Optional[PartitionFormat], keys: Sequence[str]) -> None:
        self._pattern = pattern
        self._keys = keys

    def load(self, items: List[Item], part: Optional[slice]) -> Loaded:
        """Leave out what has changed since it was listed."""
        if part is not None:
            items = items[part]
        paths, wrong = unchanged(items)
        keys = {} if self._pattern is None else self._pattern.only(self._keys, items[0][0])
        return Loaded([*paths] if paths else None, paths, len(items), wrong, keys)


def unchanged(items: List[Item]) -> tuple[list[str], InputChangedError | None]:
    """Return the paths of the items that are what was listed, and the first problem with the others.

    A URL is the script's own to open.
    """
    paths, changed = [], None
    for item in items:
        path = item[0]
        if "://" not in path:  # no path of a listing has two slashes in a row
            try:
                status = os.stat(path)
            except OSError as error:
                changed = changed or InputChangedError(
                    f"{path} was listed and cannot be read: {error.strerror}"
                )
                continue
            if status.st_mtime_ns != item[2] or status.st_size != item[1]:
                changed = changed or InputChangedError(f"{path} has changed since it was listed")
                continue
        paths.append(path)
    return paths, changed


def _source(document: Dict[str, Any], keys: Sequence[str]) -> Any:
    text = document.get("partition_format")
    pattern = None if text is None else PartitionFormat(text, document.get("key_types"))
    if document["type"] == "file":
        return FileSource(pattern, keys)
    from .table import TableSource  # pandas is for who has tables

    return TableSource(document, pattern, keys)
