# SPDX-License-Identifier: Apache-2.0
"""``parallelrun run``: split, nodes, reduce, on this machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import UnprocessedError, VerdictError

from .command import FAILED, complain
from .options import parse_job, request_of
from .progress import Board, display_for, duration
from .supervisor import run_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.engine.plan import Plan

    from .node import NodeEnd

DESCRIPTION = """\
Splits the input into mini-batches, runs the script over them in worker processes, and writes one output file.
Nothing is tolerated unless it is asked for: --error-threshold is 0.

Exit status: 0 done, 1 the job failed, 2 wrong usage or input, 130 interrupted.
"""


def main(given: Sequence[str]) -> int:
    """Run ``parallelrun run`` and return its exit status."""
    started = time.monotonic()
    parsed = parse_job("run", DESCRIPTION, given)
    request = request_of(parsed)
    if parsed.logging_level:
        # Without it only warnings and the script's stderr are shown: the files under logs have the rest.
        logging.basicConfig(level=request.config.logging_level, format="%(message)s", handlers=[_ToStderr()])
    from airflow_parallelrun.engine.split import split

    plan = split(request)
    nodes = f"{plan.node_count} node{'s' if plan.node_count > 1 else ''}"
    print(f"{plan.mini_batches} mini-batches of {plan.items} items on {nodes}", file=sys.stderr)
    print(f"run directory: {plan.run_dir}", file=sys.stderr, flush=True)
    board = Board(plan.mini_batches, display_for(plan.mini_batches, sys.stderr))
    try:
        ends, stopped_by = run_nodes(plan, board)
    finally:
        board.close()
    if stopped_by is not None and any(end.interrupted or end.status for end in ends):
        committed = f"{board.done} of {plan.mini_batches} mini-batches are committed"
        complain(f"interrupted; {committed} in the run directory {plan.run_dir}")
        return 128 + stopped_by
    return _conclude(plan, [end for end in ends if end.message], started)


def _conclude(plan: Plan, troubled: list[NodeEnd], started: float) -> int:
    """Reduce, tell the result, and return the exit status."""
    from airflow_parallelrun.engine.reduce import reduce

    try:
        result = reduce(plan.run_dir).to_dict()
    except VerdictError as error:
        _summarise(_published(plan), plan, time.monotonic() - started)
        for end in troubled:
            complain(end.message)
        if not (troubled and isinstance(error, UnprocessedError)):
            # Else it would only say once more what the nodes have said.
            complain(str(error))
        return max([FAILED, *(end.status for end in troubled)])
    for end in troubled:
        complain(f"{end.message}\nThe other nodes have done its share.")
    _summarise(result, plan, time.monotonic() - started)
    return 0


def _published(plan: Plan) -> dict[str, Any] | None:
    """A failed job's result; None when there is no output folder that could have it."""
    if plan.output is None:
        return None
    from airflow_parallelrun.config import RESULT_FILE

    result: dict[str, Any] = json.loads(Path(plan.output, RESULT_FILE).read_bytes())
    return result


def _summarise(result: dict[str, Any] | None, plan: Plan, seconds: float) -> None:
    lines = {"run directory": plan.run_dir, "logs": plan.logs}
    if result is None:
        lines = {"job": "failed", **lines}
    else:
        counts = result["counts"]
        kinds = ", ".join(
            f"{counts[kind]} {kind}" for kind in ("succeeded", "short", "failed", "unprocessed")
        )
        files = {"output file": result["output_file"], "failed items": result["failed_items_file"]}
        lines = {
            "job": f"{result['verdict']} in {duration(seconds)}",
            "mini-batches": f"{counts['mini_batches']} ({kinds})",
            "items": f"{counts['items']} ({counts['items_failed']} failed)",
            "rows": str(counts["rows"]),
            **{name: path for name, path in files.items() if path},
            **lines,
        }
    for name, text in lines.items():
        print(f"{name + ':':<15}{text}")
    sys.stdout.flush()


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what stderr is now: the progress bar takes it over, so that lines stay above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr
