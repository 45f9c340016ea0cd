# SPDX-License-Identifier: Apache-2.0
"""Batch inference on your own Airflow: the open successor of Azure ML's ParallelRunStep.

Everything a DAG file needs is here; each name is imported on first use, because the scheduler, the DAG
processor and every task import this package.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
    from airflow_parallelrun.datasets import Dataset, DataType, FileDataset, TabularDataset
    from airflow_parallelrun.models import Model
    from airflow_parallelrun.operators.parallel_run import ParallelRunOperator
    from airflow_parallelrun.parameters import PipelineParameter

__version__ = "0.1.0"

__all__ = [
    "ComputeTarget",
    "DataType",
    "Dataset",
    "Environment",
    "FileDataset",
    "Model",
    "ParallelRunConfig",
    "ParallelRunOperator",
    "PipelineParameter",
    "TabularDataset",
]

_MODULES = {
    "ComputeTarget": "config",
    "DataType": "datasets",
    "Dataset": "datasets",
    "Environment": "config",
    "FileDataset": "datasets",
    "Model": "models",
    "ParallelRunConfig": "config",
    "ParallelRunOperator": "operators.parallel_run",
    "PipelineParameter": "parameters",
    "TabularDataset": "datasets",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    near = difflib.get_close_matches(name, __all__, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it offers: {', '.join(__all__)}."
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; {hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
