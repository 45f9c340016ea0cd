# SPDX-License-Identifier: Apache-2.0
"""Which URLs a run names, for whoever has to find their connections before the engine asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_parallelrun.datasets import DatasetInput
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.split import RunRequest


def of_request(request: RunRequest) -> list[str]:
    """Return every URL that split reads or writes, and those that the plan will have."""
    folders = [
        request.output,
        request.storage_root,
        request.models_root,
        request.config.source_directory,
    ]
    return _urls([*folders, *_paths([*request.inputs, *request.side_inputs])])


def of_plan(plan: Plan) -> list[str]:
    """Return every URL that a node or reduce reads or writes."""
    folders = [plan.run_dir, plan.output, plan.models_root]
    sides = [path for each in plan.side_inputs for path in each["paths"]]
    return _urls([*folders, *sides, *_paths(map(DatasetInput.from_dict, plan.inputs))])


def _paths(inputs: Iterable[DatasetInput]) -> list[str]:
    # What a query asks is a database, by a connection of its own.
    return [path for each in inputs if not each.connection for path in each.paths]


def _urls(paths: Iterable[object]) -> list[str]:
    return [path for path in paths if isinstance(path, str) and is_remote(path)]
