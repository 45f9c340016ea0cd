# SPDX-License-Identifier: Apache-2.0
"""The names under which the original offers its datasets."""

from __future__ import annotations

from typing import Any, NoReturn

from airflow_parallelrun.exceptions import NotSupportedError

from .file_dataset import FileDataset

_INSTEAD = "Use Dataset.File.from_files(…) and read the tables in the entry script."


class TabularDataset:
    """Tables; not supported yet, and refused where a DAG asks for one.

    :raises NotSupportedError: always
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotSupportedError("TabularDataset", _INSTEAD)

    @staticmethod
    def from_delimited_files(*_: Any, **__: Any) -> NoReturn:
        """Refuse, whatever the arguments."""
        raise NotSupportedError("TabularDataset.from_delimited_files", _INSTEAD)

    @staticmethod
    def from_parquet_files(*_: Any, **__: Any) -> NoReturn:
        """Refuse, whatever the arguments."""
        raise NotSupportedError("TabularDataset.from_parquet_files", _INSTEAD)

    @staticmethod
    def from_json_lines_files(*_: Any, **__: Any) -> NoReturn:
        """Refuse, whatever the arguments."""
        raise NotSupportedError("TabularDataset.from_json_lines_files", _INSTEAD)


class Dataset:
    """``Dataset.File.from_files(…)`` and ``Dataset.Tabular.from_…(…)``, as in the original."""

    File = FileDataset
    Tabular = TabularDataset
