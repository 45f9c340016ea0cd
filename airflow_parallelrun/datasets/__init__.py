# SPDX-License-Identifier: Apache-2.0
"""What a job runs over, and how it is listed."""

from __future__ import annotations

from .dataset import Dataset, TabularDataset
from .file_dataset import DatasetInput, FileDataset
from .listing import ListedFile, is_remote, list_files

__all__ = [
    "Dataset",
    "DatasetInput",
    "FileDataset",
    "ListedFile",
    "TabularDataset",
    "is_remote",
    "list_files",
]
