# SPDX-License-Identifier: Apache-2.0
"""What OpenLineage hears of a job: which datasets it read, what it wrote, and how many rows and failures.

The methods of the operators that call this run only where Airflow's OpenLineage provider is installed, so it
is imported inside.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.datasets import DatasetInput
from airflow_parallelrun.datasets.listing import split_glob
from airflow_parallelrun.filesystems import is_remote, names_account

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.report import JobResult

    Lineage: TypeAlias = OperatorLineage[Any, Any]

RUN_FACET = "parallelRun"

# Other names of the same store; OpenLineage knows each under one.
_SCHEMES = {"abfs": "abfss", "abfss": "abfss", "az": "abfss", "gcs": "gs", "s3a": "s3"}
# An event is one HTTP request: above so many, the folders stand for their files.
_DATASETS = 100


def dataset_name(path: str) -> tuple[str, str]:
    """Return a path's namespace and name by OpenLineage's naming: ``("file", "/data")``, ``("s3://b", "k")``.

    A glob is named by its folder. *Known limitation*: where a URL does not say the storage account
    (``abfs://container/…``), neither does the namespace.

    :param path: an absolute path or a URL
    """
    if not is_remote(path):
        return "file", path if os.path.lexists(path) else _folder_of_glob(path)
    scheme, _, rest = path.partition("://")
    host, _, key = rest.partition("/")
    if not (_SCHEMES.get(scheme) == "abfss" and names_account(path)):
        # Who asks is no part of the name: a connection, a user, even a password.
        host = host.rpartition("@")[2]
    if scheme in ("http", "https"):
        key = key.partition("?")[0]
    return f"{_SCHEMES.get(scheme, scheme)}://{host}", _folder_of_glob(key).strip("/") or "/"


def dataset_names(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Name several paths, each once; of very many the folders, and of very many folders what they share."""
    names = list(dict.fromkeys(dataset_name(path) for path in paths))
    if len(names) > _DATASETS:
        names = list(dict.fromkeys((space, os.path.dirname(name)) for space, name in names))
    if len(names) > _DATASETS:
        spaces = dict.fromkeys(space for space, _ in names)
        names = [(each, os.path.commonpath([n for space, n in names if space == each])) for each in spaces]
    return names


def planned_lineage(inputs: Sequence[DatasetInput], plan: Plan | None = None) -> Lineage:
    """Return what split knows: the inputs and, once there is a plan, how much they are."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    facets: dict[str, Any] = {}
    if plan is not None:
        counts = {"miniBatches": plan.mini_batches, "items": plan.items, "nodes": plan.node_count}
        facets = _run_facet(planId=plan.plan_id, runDir=plan.run_dir, **counts)
    return OperatorLineage(inputs=_inputs(inputs, plan), run_facets=facets)


def job_lineage(plan: Plan | None, result: JobResult | None) -> Lineage:
    """Return the inputs and, of a job that has ended, the output, its rows, and all counts.

    A failed job has no output. Rows and files are OpenLineage's own facets; for failures it has none, so the
    counts are in a run facet of ours, ``parallelRun``.

    :param plan: None where reduce has not read it, or there is none: of a result that was taken over
    :param result: None where there is none, because a file could not be read or written
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    documents = plan.inputs if plan is not None else []
    inputs = _inputs([DatasetInput.from_dict(document) for document in documents], plan)
    if result is None:
        return OperatorLineage(inputs=inputs)
    counts = {_camel(name): value for name, value in asdict(result.counts).items()}
    facets = _run_facet(
        verdict=result.verdict, planId=result.plan_id, runDir=result.run_dir, round=result.round, **counts
    )
    outputs = [] if result.verdict == "failed" else _outputs(result)
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets=facets)


def _inputs(inputs: Sequence[DatasetInput], plan: Plan | None) -> list[InputDataset]:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset

    # Which tables a query reads is its own secret.
    names = dataset_names(path for each in inputs if not each.connection for path in each.paths)
    facets: dict[str, Any] = {}
    # The plan does not know how many files are whose, nor how many a table has.
    if plan is not None and len(names) == 1 and not any(each.is_tabular for each in inputs):
        statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(fileCount=plan.items)
        facets = {"inputStatistics": statistics}
    return [InputDataset(namespace=space, name=name, inputFacets=dict(facets)) for space, name in names]


def _outputs(result: JobResult) -> list[OutputDataset]:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    path = result.output_file or result.output
    if path is None:
        return []
    facets: dict[str, Any] = {}
    if result.output_file is not None:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=result.counts.rows, size=_size(result.output_file), fileCount=1
        )
    space, name = dataset_name(path)
    return [OutputDataset(namespace=space, name=name, outputFacets=facets)]


def _size(path: str) -> int | None:
    # A store is not asked: what is said of a job that has ended must not depend on it.
    return None if is_remote(path) else Path(path).stat().st_size


def _run_facet(**values: Any) -> dict[str, Any]:
    from openlineage.client.facet_v2 import RunFacet

    return {RUN_FACET: RunFacet().with_additional_properties(**values)}


def _folder_of_glob(path: str) -> str:
    return split_glob(path)[0].rstrip("/") or "/"


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
