# SPDX-License-Identifier: Apache-2.0
"""Cuts inputs into mini-batches: files by number, tables by size, and both by partition keys if asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from airflow_parallelrun.config import TableSize
from airflow_parallelrun.datasets import FilePart, TabularDataset, list_files
from airflow_parallelrun.datasets.tabular_dataset import PARQUET
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, PartitionError
from airflow_parallelrun.worker.partitions import PartitionFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.datasets import DatasetInput, FileDataset, ListedFile
    from airflow_parallelrun.engine.listing_limit import ListingLimit
    from airflow_parallelrun.engine.processed import Processed

# With partition keys all rows of a file are in one mini-batch, however many.
_WHOLE = TableSize(1 << 62, "bytes")


class Cut(NamedTuple):
    """An input that has been looked at.

    :param source: what processes need to know to load its mini-batches
    :param mini_batches: the files, or the parts of files, of each; listing goes on while these are taken
    """

    source: dict[str, Any]
    mini_batches: Iterator[Sequence[ListedFile] | Sequence[FilePart]]


def check(config: ParallelRunConfig, inputs: Sequence[DatasetInput]) -> None:
    """Check what can be checked before anything is listed.

    A pipeline parameter is left for later.

    :raises ConfigurationError: when the inputs cannot be split so
    """
    tables = [each.is_tabular for each in inputs]
    if any(tables) and not all(tables):
        raise ConfigurationError(
            "inputs has files and tables: a mini-batch is either, and mini_batch_size means other things for "
            "them. Give them to two steps."
        )
    pending = config.pipeline_parameters()
    if "mini_batch_size" not in pending and not any(tables):
        _ = config.files_per_mini_batch
    if "partition_keys" not in pending:
        for each in inputs:
            dataset = each.known_dataset
            if not _finds_its_keys(dataset):
                _check_keys(config, dataset.partition_keys if dataset else ())


def cut(
    each: DatasetInput, config: ParallelRunConfig, limit: ListingLimit, processed: Processed | None = None
) -> Cut:
    """List an input and cut it.

    :param processed: of which nothing is cut again where only new files are wanted
    :raises DatasetError: when it is missing, empty or unreadable, or takes too long to list
    :raises ConfigurationError: when a table lacks a column, or its files are not of one table
    """
    if each.is_tabular:
        files = cast("TabularDataset", each.dataset).files()
        return _cut_table(each, config, limit.watch(each.paths, files))
    files = iter(limit.watch(each.paths, list_files(each.paths)))
    if each.only_new and processed is not None:
        files = processed.new(files)
    text = cast("FileDataset", each.dataset).partition_format
    source = {"type": "file", "partition_format": text}
    pattern = None
    if text is not None:
        pattern = PartitionFormat(text)
        files = _fitting(files, pattern)
    if config.partition_keys:
        _check_keys(config, pattern.keys if pattern else ())
        return Cut(source, _grouped(files, pattern, config.partition_keys))
    return Cut(source, _batched(files, config.files_per_mini_batch))


def _cut_table(each: DatasetInput, config: ParallelRunConfig, listed: Iterable[ListedFile]) -> Cut:
    # Here, not at the top: who has files only need not wait for it.
    from airflow_parallelrun.datasets.partitioning import found_keys, hive_format
    from airflow_parallelrun.datasets.table import Table

    dataset, files, keys = cast("TabularDataset", each.dataset), list(listed), config.partition_keys
    if _finds_its_keys(dataset) and (found := found_keys(files)):
        types = found | dataset.column_types
        dataset = replace(dataset, partition_format=hive_format(found), column_types=types)
    pattern = None
    if dataset.partition_format is not None:
        pattern = PartitionFormat(dataset.partition_format, dataset.column_types)
        files = list(_fitting(files, pattern))
    table = Table(dataset, files, _WHOLE if keys else config.table_size)
    if keys:
        _check_keys(config, dataset.partition_keys)
        return Cut(table.source, _grouped(table.parts(), pattern, keys))
    return Cut(table.source, ([part] for part in table.parts()))


def _finds_its_keys(dataset: FileDataset | TabularDataset | None) -> bool:
    """Whether split looks for partition keys in the folders' names."""
    return isinstance(dataset, TabularDataset) and dataset.format == PARQUET and not dataset.partition_format


def _check_keys(config: ParallelRunConfig, known: Sequence[str]) -> None:
    for key in config.partition_keys or ():
        if key not in known:
            told = ", ".join(known) or "none: it has no partition_format"
            rule = f"among the keys of each input; one has {told}"
            raise InvalidValueError("partition_keys", config.partition_keys, rule)


def _batched(files: Iterator[ListedFile], count: int) -> Iterator[list[ListedFile]]:
    while batch := list(islice(files, count)):
        yield batch


def _fitting(files: Iterable[ListedFile], pattern: PartitionFormat) -> Iterator[ListedFile]:
    for file in files:
        if pattern.values(file.path) is None:
            raise PartitionError(file.path, pattern.text)
        yield file


def _grouped(
    items: Iterable[Any], pattern: PartitionFormat | None, keys: Sequence[str]
) -> Iterator[list[Any]]:
    """Yield what has the same values of some keys; groups in the order in which they begin."""
    assert pattern is not None
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for item in items:
        path = item.file.path if isinstance(item, FilePart) else item.path
        values = pattern.values(path) or {}
        groups.setdefault(tuple(values[key] for key in keys), []).append(item)
    return iter(groups.values())
