# SPDX-License-Identifier: Apache-2.0
"""What a person is told at the end: the result, the failed items, and what went wrong most."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from airflow_parallelrun.engine.dispatcher import TRACEBACK_END
from airflow_parallelrun.engine.journal import Part
from airflow_parallelrun.engine.ledger import Counts
from airflow_parallelrun.engine.plan import PlanItems
from airflow_parallelrun.engine.tries import error_line
from airflow_parallelrun.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airflow_parallelrun.engine.journal import Line, Record
    from airflow_parallelrun.engine.plan import Plan

FORMAT_VERSION = 1

GROUPS = 10
# Causes that are told apart while they are counted.
KINDS = 1_000
_ITEMS_PER_GROUP = 3
# Where one mini-batch fails its neighbours often do, too.
_READ_AHEAD = 32


@dataclass(frozen=True)
class ErrorGroup:
    """Failures with one cause: the same type, the same place, and the same message but for numbers and names.

    :param error: type, message and place of the first one
    :param mini_batches: how many failed or came back short so
    :param items: how many items that is
    :param sample_mini_batch: the first one's ordinal
    :param sample_items: its first items
    :param traceback: the end of the first traceback that was journalled
    :param log: the file that has everything of the first one
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
        together, of reduce, and from the plan to the verdict in whole seconds
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make it from the content of ``job_result.json``; what is not of it is left out."""
        known = {item.name: values[item.name] for item in fields(cls)}
        known["counts"] = Counts(**known["counts"])
        known["error_groups"] = [ErrorGroup(**group) for group in known["error_groups"]]
        return cls(**known)


class _Group:
    """What is kept of the failures of one kind while they are counted: bounded, whatever they say."""

    def __init__(self, error: str, ordinal: int, part: Part, log: str) -> None:
        self.error = error
        self.ordinal = ordinal
        self.first = part.first
        self.last = part.first + min(part.items, _ITEMS_PER_GROUP)
        self.log = log
        self.traceback = ""
        self.mini_batches = self.items = 0
        self._latest = -1

    def count(self, ordinal: int, part: Part, traceback: str) -> None:
        """Count a part; its mini-batch counts once."""
        self.mini_batches += ordinal != self._latest
        self._latest = ordinal
        self.items += part.items - part.items_ok or int(part.status == protocol.FAILED)
        # A node journals those of the first few errors of a kind, and they may stand anywhere in the plan.
        self.traceback = self.traceback or traceback[-TRACEBACK_END:]

    def told(self, items: PlanItems) -> ErrorGroup:
        """Return it with the first items of the first part."""
        return ErrorGroup(
            error=self.error,
            mini_batches=self.mini_batches,
            items=self.items,
            sample_mini_batch=self.ordinal,
            sample_items=items.names(self.ordinal, slice(self.first, self.last))[:_ITEMS_PER_GROUP],
            traceback=self.traceback,
            log=self.log,
        )


def failed_item_lines(plan: Plan, problems: Iterable[Record]) -> Iterator[bytes]:
    """Yield the lines of ``failed_items.jsonl``: one for each failed item, and one for each short return.

    Which items a short return left out is not known: its line has all of them, and how many are missing. Of
    a mini-batch that was bisected each failed item has the error of its own part, and those that succeeded
    have no line. Of a table each row that did not fit has a line; what else failed of a mini-batch has one
    together.

    :param problems: the lines of failed and short mini-batches, in the order of the plan
    """
    with contextlib.closing(PlanItems(plan, _READ_AHEAD)) as items:
        for record in problems:
            for part in _troubled(record.line):
                ordinal = record.line.ordinal
                named = items.names(ordinal, slice(part.first, part.first + part.items))
                told = _failure(plan, record, part)
                if part.status == protocol.FAILED and not items.is_table(ordinal):
                    for name in named:
                        yield _json_line({"item": name, **told})
                    continue
                rows = (part.error or {}).get("rows", ())
                for where, column, why in rows:
                    message = why if column is None else f"column {column!r}: {why}"
                    yield _json_line({"item": where, **told, "error": {**told["error"], "message": message}})
                uncounted = part.status == protocol.FAILED and not part.items
                if missing := part.items - part.items_ok - len(rows) or int(uncounted):
                    yield _json_line({"items": named, "missing": missing, **told})


def _failure(plan: Plan, record: Record, part: Part) -> dict[str, Any]:
    error = {name: value for name, value in (part.error or {}).items() if name not in ("traceback", "rows")}
    log = _log(plan, record, part)
    node, process = str(record.attempt), record.line.process
    if record.line.parts:  # each was run somewhere, and perhaps in an earlier round
        node, name = log.split(os.sep)[-2:]
        process = name.partition(".")[0]
    return {
        "mini_batch": record.line.ordinal,
        "status": part.status,
        "tries": record.line.tries,
        "node": node,
        "process": process,
        "error": {**error, "log": log},
    }


def group_errors(plan: Plan, problems: Iterable[Record]) -> list[ErrorGroup]:
    """Group failures by cause, most frequent first; a bisected mini-batch by the cause of each of its parts.

    A cause is the type, the place, and the message without what differs from item to item. That is bounded,
    whatever the messages say: beyond 1,000 causes new ones are told apart by type and place alone, and beyond
    another 1,000 not at all.

    :param problems: the lines of failed and short mini-batches, in the order of the plan
    """
    groups: dict[tuple[str, ...], _Group] = {}
    for record in problems:
        ordinal = record.line.ordinal
        for part in _troubled(record.line):
            error = part.error or {}
            key, text = _kind(groups, error)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(text, ordinal, part, _log(plan, record, part))
            group.count(ordinal, part, str(error.get("traceback") or ""))
    top = sorted(groups.values(), key=lambda group: (-group.mini_batches, group.ordinal))[:GROUPS]
    with contextlib.closing(PlanItems(plan, _READ_AHEAD)) as items:
        return [group.told(items) for group in top]


def _kind(groups: Collection[tuple[str, ...]], error: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return what an error is grouped by, and what its group is called if it is the first."""
    name, frame = str(error.get("type")), str(error.get("frame"))
    exact = (name, frame, _normalised(str(error.get("message"))))
    if exact in groups or len(groups) < KINDS:
        return exact, error_line(error)
    coarse = (name, frame)
    if coarse in groups or len(groups) < 2 * KINDS:
        return coarse, error_line({**error, "message": "(other messages)"})
    return (), "other errors"


def _troubled(line: Line) -> list[Part]:
    """Return the parts of a line that failed or came back short; without parts, all of it as one."""
    if line.parts:
        return [part for part in line.parts if part.status != protocol.OK]
    return [Part(0, line.items_in, line.status, line.items_ok, line.rows_out, line.extents, line.error)]


def _log(plan: Plan, record: Record, part: Part) -> str:
    """Return the file that has everything; the node's own where no process was at fault."""
    return str((part.error or {}).get("log") or plan.node_log(str(record.attempt)))


def _json_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _normalised(message: str) -> str:
    """Return a message without what differs from item to item: quoted texts, paths and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", message)
    return re.sub(r"\S*/\S*|\d+", "…", message)
