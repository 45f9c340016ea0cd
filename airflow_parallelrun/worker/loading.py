# SPDX-License-Identifier: Apache-2.0
"""Loading: from a line of the plan to what ``run()`` gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

from .errors import InputChangedError, LoadError
from .partitions import PartitionFormat
from .spool import Copies, is_url

if TYPE_CHECKING:
    from .items import Item


class Loaded(NamedTuple):
    """A mini-batch, or a part of one.

    :param value: what run() gets; None when nothing of it could be loaded
    :param paths: for each item of the value, the path or URL that it is from
    :param items: how many it has, those that could not be loaded as well
    :param wrong: why these could not be loaded
    :param keys: the partition keys that make the mini-batch, with their values
    :param places: of files, where run() finds them
    """

    value: Any
    paths: List[str]
    items: int
    wrong: Optional[Exception]
    keys: Dict[str, Any]
    places: Sequence[str] = ()


class Loader:
    """Loads the mini-batches of a run.

    :param sources: what split has found out of each input, as the plan has it
    :param partition_keys: what mini-batches are made by; empty when they are made by size
    """

    def __init__(self, sources: Sequence[Dict[str, Any]], partition_keys: Sequence[str]) -> None:
        self._sources = [_source(each, partition_keys) for each in sources]

    def load(self, line: List[Any], part: Optional[slice] = None, ordinal: int = 0) -> Loaded:
        """Load a mini-batch.

        :param line: the number of its input, and its items
        :param part: which of its items, where it is bisected
        :param ordinal: the mini-batch
        """
        loaded: Loaded = self._sources[line[0]].load(line[1:], part, ordinal)
        return loaded


class FileSource:
    """An input of files: run() gets their paths, or those of their copies.

    :param pattern: where partition keys stand in a path
    :param keys: those that make a mini-batch
    :param spool: the node's folder of copies; None when URLs are the script's own to open
    """

    def __init__(
        self, pattern: Optional[PartitionFormat], keys: Sequence[str], spool: Optional[str] = None
    ) -> None:
        self._pattern = pattern
        self._keys = keys
        self._spool = spool

    def load(self, items: List[Item], part: Optional[slice], ordinal: int) -> Loaded:
        """Leave out what has changed since it was listed, and what cannot be read."""
        first = 0
        if part is not None:
            items, first = items[part], part.start
        found = find(items, copies_of(self._spool, ordinal), first)
        paths = [item[0] for item in found.items]
        keys = {} if self._pattern is None else self._pattern.only(self._keys, items[0][0])
        value = [*found.places] if paths else None
        return Loaded(value, paths, len(items), found.wrong, keys, found.places)


class Found(NamedTuple):
    """What of some items is there.

    :param items: those that are what was listed
    :param places: for each of these the path where it can be read, or the URL
    :param wrong: the first problem with the others
    """

    items: List[Item]
    places: List[str]
    wrong: Optional[Exception]


def find(items: List[Item], copies: Optional[Copies] = None, first: int = 0) -> Found:
    """Find the items of a mini-batch.

    :param copies: of those that lie at URLs; None when a URL is the script's own to open
    :param first: the place of the first item in the mini-batch
    """
    found = Found([], [], None)
    for number, item in enumerate(items, first):
        try:
            place = _place(item, copies, number)
        except (InputChangedError, LoadError) as error:
            if found.wrong is None:
                found = found._replace(wrong=error)
        else:
            found.items.append(item)
            found.places.append(place)
    return found


def copies_of(spool: Optional[str], ordinal: int) -> Optional[Copies]:
    """Return the copies for a mini-batch; None without a spool."""
    return None if spool is None else Copies(spool, ordinal)


def _place(item: Item, copies: Optional[Copies], number: int) -> str:
    path: str = item[0]
    if is_url(path):
        # Whether that is what was listed the node has seen when it copied it.
        return path if copies is None else copies.find(number, path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputChangedError(f"{path} was listed and cannot be read: {error.strerror}") from None
    if status.st_mtime_ns != item[2] or status.st_size != item[1]:
        raise InputChangedError(f"{path} has changed since it was listed")
    return path


def _source(document: Dict[str, Any], keys: Sequence[str]) -> Any:
    text = document.get("partition_format")
    pattern = None if text is None else PartitionFormat(text, document.get("key_types"))
    if document["type"] == "file":
        return FileSource(pattern, keys, document.get("spool"))
    from .table import TableSource  # pandas is for who has tables

    return TableSource(document, pattern, keys)
