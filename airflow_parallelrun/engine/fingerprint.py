# SPDX-License-Identifier: Apache-2.0
"""What the rows of a run depend on, as digests: two runs with the same would come to the same rows.

Nothing can be read from a digest but whether two things are equal; no value is kept.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from airflow_parallelrun import __version__

if TYPE_CHECKING:
    from airflow_parallelrun.engine.items import ItemWriter
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.split import RunRequest

# How a run is run, for how long, and how much of it may fail. Of a run in which nothing has failed or come
# back short none of these can have changed a row. Whatever is not named here counts.
NOT_COUNTED = frozenset(
    {
        "allowed_failed_count",
        "allowed_failed_percent",
        "bisect_failures",
        "compute_target",
        "description",
        "error_threshold",
        "first_task_creation_timeout",
        "init_timeout",
        "logging_level",
        "node_count",
        "process_count_per_node",
        "profiling_module",
        "progress_update_timeout",
        "resource_monitor_interval",
        "retry_short_returns",
        "run_invocation_timeout",
        "run_max_try",
        "shutdown_timeout",
        "spool_bytes",
        "source_directory",  # what is in it counts
        "start_method",
        "task_overhead_timeout",
    }
)
INPUT = "input"
# Where these differ the input is cut otherwise, and of the items nobody can tell by their digest.
_CUTS = frozenset({"mini_batch_size", "partition_keys", "inputs"})


def fingerprint(plan: Plan, listing: str) -> dict[str, str]:
    """Return a digest of each thing that counts, by its name.

    :param plan: the plan
    :param listing: the digest of its items
    """
    counted = {name: value for name, value in plan.config.to_dict().items() if name not in NOT_COUNTED}
    documents = [{name: each[name] for name in each if name != "paths"} for each in plan.inputs]
    parts: dict[str, Any] = {
        **counted,
        "arguments": plan.arguments,
        "code": plan.code_sha256,
        "entry_script": plan.entry_script,
        "inputs": [documents, plan.sources],
        "models_root": plan.models_root,
        "side_inputs": [[each["name"], each["file"], each["listing"]] for each in plan.side_inputs],
        "version of airflow_parallelrun": __version__,
    }
    return {name: digest(value) for name, value in sorted(parts.items())} | {INPUT: listing}


def name_of(parts: dict[str, str]) -> str:
    """Return a fingerprint as one text."""
    return digest(parts)


def differences(parts: dict[str, str], earlier: dict[str, str]) -> list[str]:
    """Return the names of what differs."""
    found = {name for name in {*parts, *earlier} if parts.get(name) != earlier.get(name)}
    return sorted(found - {INPUT} if found & _CUTS else found)


def why_none(request: RunRequest, plan: Plan, items: ItemWriter) -> str:
    """Return why no run can have the same result as this one for certain; empty when one can."""
    if not request.allow_reuse:
        return "allow_reuse is off"
    if request.storage_root is None or request.step_run is None:
        return "what runs have come to is kept in the storage root, and there is none"
    if any(each.connection for each in request.inputs):
        return "whether what a query reads has changed nobody knows"
    if any(each.only_new for each in request.inputs):
        return "only new files are processed"
    if plan.output is None:
        return "what a script writes without an output folder nobody finds again"
    if not items.are_identifiable:
        return "the store of the input tells neither when a file was changed nor a tag of its content"
    if not all(each["listing"] for each in plan.side_inputs):
        return "the store of a side input tells neither when a file was changed nor a tag of its content"
    return ""


def digest(value: Any) -> str:
    """Return a digest of what JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
