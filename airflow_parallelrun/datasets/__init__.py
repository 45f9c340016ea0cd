# SPDX-License-Identifier: Apache-2.0
"""What a job runs over, and how it is listed."""

from __future__ import annotations

from .dataset import Dataset
from .dataset_input import DatasetInput
from .file_dataset import FileDataset
from .listing import FilePart, ListedFile, list_files
from .tabular_dataset import DataType, TabularDataset

__all__ = [
    "DataType",
    "Dataset",
    "DatasetInput",
    "FileDataset",
    "FilePart",
    "ListedFile",
    "TabularDataset",
    "list_files",
]
