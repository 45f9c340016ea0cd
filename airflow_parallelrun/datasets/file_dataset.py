# SPDX-License-Identifier: Apache-2.0
"""Files as a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_parallelrun import rules
from airflow_parallelrun.exceptions import InvalidValueError
from airflow_parallelrun.worker.partitions import PartitionFormat

from .dataset_input import DatasetInput

_PATHS_RULE = "a path as text, or a list of at least one"

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class FileDataset:
    """Files: each path a file, a folder (every file below it), a glob, or a URL of one of these.

    See ``list_files`` for what exactly is listed, and in which order.

    :param paths: as given; relative ones are relative to the DAG file, or to where the command runs
    :param partition_format: where partition keys stand in the paths, such as ``{user}/{season}/*.wav``; from
        the first key, or a name before it, to the end of a path. ``{day:yyyy/MM/dd}`` is a date
    :param only_new: leave out what an earlier successful run of the step has processed
    :raises InvalidValueError: for no path, one that is not text, and what is no partition format
    """

    paths: tuple[str, ...]
    partition_format: str | None = None
    only_new: bool = False

    def __post_init__(self) -> None:
        """Check the paths' form; whether they exist is known where the job runs."""
        object.__setattr__(self, "paths", texts(self.paths))
        partition_keys_of(self.partition_format)
        rules.flag("only_new", self.only_new)

    @classmethod
    def of(cls, paths: object, **options: Any) -> FileDataset:
        """Make it of one path or several, as a run's conf has them, and of its other fields."""
        return cls(texts(paths), **options)

    @classmethod
    def from_files(
        cls,
        path: Path | Sequence[Path],
        validate: bool = True,
        partition_format: str | None = None,
        only_new: bool = False,
    ) -> FileDataset:
        """Make a dataset of files.

        :param path: one path or several
        :param validate: accepted as in the original; the input is always checked before a node starts
        :param partition_format: as of the class
        :param only_new: as of the class
        """
        return cls(texts(path), partition_format, only_new)

    @property
    def partition_keys(self) -> tuple[str, ...]:
        """The keys in the paths; empty without a partition format."""
        return partition_keys_of(self.partition_format)

    def as_mount(self) -> DatasetInput:
        """Use it as an input whose files the script opens by path."""
        return DatasetInput(self, "mount").check_mode()

    def as_download(self) -> DatasetInput:
        """Use it as an input whose files are on the node's disk; local ones are used where they are."""
        return DatasetInput(self, "download").check_mode()

    def as_direct(self) -> DatasetInput:
        """Use it as an input whose paths or URLs the script gets as they are."""
        return DatasetInput(self, "direct")

    def as_named_input(self, name: str) -> DatasetInput:
        """Use it as an input with a name; mounted, unless ``.as_direct()`` or ``.as_download()`` follows."""
        return DatasetInput(self, "mount", name)


def partition_keys_of(partition_format: str | None) -> tuple[str, ...]:
    """Return the keys of a partition format.

    :raises InvalidValueError: when it is none
    """
    if partition_format is None:
        return ()
    try:
        return tuple(PartitionFormat(partition_format).keys)
    except (ValueError, TypeError, AttributeError) as error:
        rule = f"a pattern of paths such as '{{user}}/{{day:yyyy-MM-dd}}/*.csv' ({error})"
        raise InvalidValueError("partition_format", partition_format, rule) from error


def texts(value: object) -> tuple[str, ...]:
    """Return one path or several as text.

    :raises InvalidValueError: for anything else
    """
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    items = list(value) if several else [value]  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError("path", value, _PATHS_RULE)
    return tuple(_text(item) for item in items)


def _text(item: object) -> str:
    text = os.fspath(item) if isinstance(item, os.PathLike) else item
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidValueError("path", item, _PATHS_RULE)
    return text
