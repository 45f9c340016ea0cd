# SPDX-License-Identifier: Apache-2.0
"""The names under which the original offers its datasets."""

from __future__ import annotations

from .file_dataset import FileDataset
from .tabular_dataset import TabularDataset


class Dataset:
    """``Dataset.File.from_files(…)`` and ``Dataset.Tabular.from_…(…)``, as in the original."""

    File = FileDataset
    Tabular = TabularDataset
