# SPDX-License-Identifier: Apache-2.0
"""What Airflow keeps of a result: bounded, whatever the size of the data; its database is not the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from airflow_parallelrun.engine.report import JobResult

# Every XCom and every asset event is a row that the API server reads whole.
SUMMARY_BYTES = 32_000
_CAUSES = 3
_CAUSE_CHARS = 300


def summary(
    result: JobResult, redrive_of: str | None = None, reused_from: str | None = None
) -> dict[str, Any]:
    """Return the result as in ``job_result.json``, with fewer error groups where they are long.

    :param redrive_of: the earlier run whose result it is, too
    :param reused_from: the earlier run whose result was taken over
    """
    document = result.to_dict()
    if redrive_of:
        document["redrive_of"] = redrive_of
    if reused_from:
        document["reused_from"] = reused_from
    while document["error_groups"] and len(json.dumps(document)) > SUMMARY_BYTES:
        document["error_groups"].pop()
    return document


def error_report(result: JobResult) -> str:
    """Return what failed, for people: how much, the most frequent causes, and the file that lists it all.

    Text, since Airflow's UI shows text in full and folds everything else.
    """
    counts = result.counts
    at_least = "At least " if counts.items_at_least else ""
    lines = [
        f"{at_least}{counts.items_failed} of {counts.items} items failed, "
        f"in {counts.failed + counts.short} of {counts.mini_batches} mini-batches.",
        *(
            f"{group.mini_batches} mini-batches: {group.error[:_CAUSE_CHARS]}"
            for group in result.error_groups[:_CAUSES]
        ),
    ]
    if result.failed_items_file:
        lines.append(f"All of them: {result.failed_items_file}")
    return "\n".join(lines)


def asset_extra(result: JobResult) -> dict[str, Any]:
    """Return what an asset event tells those who wait for the asset."""
    counts = result.counts
    return {
        "verdict": result.verdict,
        "output": as_uri(result.output_file or result.output),
        "mini_batches": counts.mini_batches,
        "mini_batches_failed": counts.failed + counts.short,
        "items": counts.items,
        "items_failed": counts.items_failed,
        "rows": counts.rows,
        "run_dir": result.run_dir,
        "plan_id": result.plan_id,
    }


def as_uri(path: str | None) -> str | None:
    """Return a local path as a ``file://`` URI, and a URL as it is."""
    return path if path is None or is_remote(path) else Path(path).as_uri()
