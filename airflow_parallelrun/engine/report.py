# SPDX-License-Identifier: Apache-2.0
"""What a person is told at the end: the result, the failed items, and what went wrong most."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.dispatcher import TRACEBACK_END
from airflow_parallelrun.engine.plan import ItemTable, MiniBatch
from airflow_parallelrun.engine.tries import error_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_parallelrun.engine.journal import Record
    from airflow_parallelrun.engine.ledger import Counts
    from airflow_parallelrun.engine.plan import Plan

FORMAT_VERSION = 1

GROUPS = 10
_ITEMS_PER_GROUP = 3


@dataclass(frozen=True)
class ErrorGroup:
    """Failures with one cause: the same type, the same place, and the same message but for numbers and names.

    :param error: type, message and place of the first one
    :param mini_batches: how many failed or came back short so
    :param items: how many items that is
    :param sample_mini_batch: the first one's ordinal
    :param sample_items: its first items
    :param traceback: the end of the first one's traceback
    :param log: the file that has everything
    """

    error: str
    mini_batches: int
    items: int
    sample_mini_batch: int
    sample_items: list[str]
    traceback: str
    log: str


@dataclass(frozen=True)
class JobResult:
    """The result of a job, as it stands in ``job_result.json``.

    :param verdict: ``succeeded``, ``succeeded with errors`` or ``failed``
    :param reason: why it failed; empty otherwise
    :param output: the output folder
    :param output_file: the append_row file; None for summary_only and when the job failed
    :param failed_items_file: one line for each failed item; None when none failed
    :param logs: the folder of the logs
    :param run_dir: the run directory
    :param plan_id: of the plan
    :param round: the sealed round that this is the verdict of
    :param counts: mini-batches, items and rows
    :param thresholds: what was told to be tolerated, by the names in ParallelRunConfig; None: no such limit
    :param durations: seconds: of split, until the slowest node's first process was ready, of all run() calls
        together, and of reduce
    :param error_groups: the most frequent causes, most frequent first
    """

    verdict: str
    reason: str
    output: str | None
    output_file: str | None
    failed_items_file: str | None
    logs: str
    run_dir: str
    plan_id: str
    round: int
    counts: Counts
    thresholds: dict[str, float | None]
    durations: dict[str, float]
    error_groups: list[ErrorGroup]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, bounded whatever the size of the data."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def to_json(self) -> bytes:
        """Return the content of ``job_result.json``."""
        return json.dumps(self.to_dict(), indent=1).encode()


def failed_item_lines(plan: Plan, problems: Iterable[Record]) -> Iterator[bytes]:
    """Yield the lines of ``failed_items.jsonl``: one for each failed item, and one for each short return.

    Which items a short return left out is not known: its line has all of them, and how many are missing.
    """
    for record, mini_batch in _with_items(plan, problems):
        line = record.line
        paths = [item[0] for item in mini_batch.items]
        common = {
            "mini_batch": line.ordinal,
            "status": line.status,
            "tries": line.tries,
            "node": str(record.attempt),
            "process": line.process,
            "error": {name: value for name, value in (line.error or {}).items() if name != "traceback"},
        }
        if line.succeeded:
            missing = line.items_in - line.items_ok
            yield json.dumps({"items": paths, "missing": missing, **common}).encode() + b"\n"
            continue
        for path in paths:
            yield json.dumps({"item": path, **common}).encode() + b"\n"


def group_errors(plan: Plan, problems: Iterable[Record]) -> list[ErrorGroup]:
    """Group failures by cause, most frequent first."""
    first: dict[tuple[str, str, str], Record] = {}
    totals: dict[tuple[str, str, str], list[int]] = {}
    for record in problems:
        error = record.line.error or {}
        key = (str(error.get("type")), _normalised(str(error.get("message"))), str(error.get("frame")))
        total = totals.setdefault(key, [0, 0])
        total[0] += 1
        total[1] += record.line.items_in - record.line.items_ok
        first.setdefault(key, record)
    top = sorted(totals, key=lambda key: (-totals[key][0], first[key].line.ordinal))[:GROUPS]
    samples = {
        record.line.ordinal: mini_batch for record, mini_batch in _with_items(plan, (first[k] for k in top))
    }
    return [_group(first[key], totals[key], samples[first[key].line.ordinal]) for key in top]


def _group(record: Record, total: list[int], mini_batch: MiniBatch) -> ErrorGroup:
    error = record.line.error or {}
    return ErrorGroup(
        error=error_line(error),
        mini_batches=total[0],
        items=total[1],
        sample_mini_batch=record.line.ordinal,
        sample_items=[item[0] for item in mini_batch.items[:_ITEMS_PER_GROUP]],
        traceback=error.get("traceback", "")[-TRACEBACK_END:],
        log=error.get("log", ""),
    )


def _with_items(plan: Plan, records: Iterable[Record]) -> Iterator[tuple[Record, MiniBatch]]:
    """Yield records with their mini-batch; a chunk is read once for neighbours."""
    table, chunk, batches = None, -1, {}
    for record in records:
        if table is None:
            table = ItemTable(plan)
        ordinal = record.line.ordinal
        if plan.chunk_of(ordinal) != chunk:
            chunk = plan.chunk_of(ordinal)
            batches = {mini_batch.ordinal: mini_batch for mini_batch in table.read_chunk(chunk)}
        yield record, batches[ordinal]
    if table is not None:
        table.close()


def _normalised(message: str) -> str:
    """Return a message without what differs from item to item: quoted texts, paths and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", message)
    return re.sub(r"\S*/\S*|\d+", "…", message)
