# SPDX-License-Identifier: Apache-2.0
"""``parallelrun run``: split, nodes, reduce, on this machine."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.exceptions import (
    NothingNewError,
    NotRedrivenError,
    OutputError,
    StorageError,
    UnprocessedError,
)

from .command import FAILED, INTERRUPTED, complain, describe, exit_status
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
        show_logs(request.config.logging_level)
    from airflow_parallelrun.engine.reuse import Reused, split_or_reuse

    try:
        plan = split_or_reuse(request, lambda why: print(why, file=sys.stderr))
    except NothingNewError as nothing:
        print(nothing, file=sys.stderr)
        return 0
    if isinstance(plan, Reused):
        print(f"nothing is run: run {plan.run} has come to the same", file=sys.stderr, flush=True)
        summarise(plan.result, time.monotonic() - started)
        return 0
    nodes = f"{plan.node_count} node{'s' if plan.node_count > 1 else ''}"
    items = "" if plan.items is None else f" of {plan.items} items"
    print(f"{plan.mini_batches} mini-batches{items} on {nodes}", file=sys.stderr)
    print(f"run directory: {plan.run_dir}", file=sys.stderr, flush=True)
    return run_plan(plan, started)


def show_logs(level: str) -> None:
    """Show what is logged; else only warnings and the script's stderr are: the files have the rest."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[_ToStderr()])


def run_plan(plan: Plan, started: float) -> int:
    """Start every node of a plan, reduce, tell the result, and return the exit status.

    :param started: when the command did, on the monotonic clock
    """
    board = Board(plan.mini_batches, display_for(plan.mini_batches, sys.stderr))
    try:
        try:
            ends, stopped_by = run_nodes(plan, board)
        finally:
            board.close()
        if any(end.superseded for end in ends):
            complain("another command goes on with this run (parallelrun resume), so this one has stopped")
            return FAILED
        if stopped_by is not None and any(end.interrupted or end.status for end in ends):
            complain(
                f"interrupted; {board.done} of {board.total} mini-batches are committed. {to_go_on(plan)}"
            )
            return 128 + stopped_by
        return conclude(plan, [end for end in ends if end.message], started)
    except KeyboardInterrupt:
        complain(f"interrupted. {to_go_on(plan)}")
        return INTERRUPTED


def conclude(plan: Plan, troubled: list[NodeEnd], started: float) -> int:
    """Reduce, tell the result, and return the exit status.

    :param troubled: the nodes that have something to say
    """
    from airflow_parallelrun.engine.reduce import settle

    try:
        result, failure = settle(plan.run_dir)
    except (OutputError, StorageError) as error:
        complain(f"{describe(error)}\nAll work is kept. {to_go_on(plan)}")
        return exit_status(error)
    summarise(result.to_dict(), time.monotonic() - started)
    if failure is None:
        for end in troubled:
            complain(f"{end.message}\nThe other nodes have done its share.")
        if result.verdict == "succeeded with errors":
            complain(how_to_redrive(plan, result.to_dict()))
        return 0
    for end in troubled:
        complain(end.message)
    status = max([FAILED, *(end.status for end in troubled)])
    if not (troubled and isinstance(failure, UnprocessedError | NotRedrivenError)):
        complain(str(failure))
    elif status == FAILED:
        complain(f"{failure.what}.")  # the nodes have said why
    if failure.left and status == FAILED:
        complain(
            f"{failure.left} mini-batches failed or were not processed. If the cause lies outside of the "
            f"script and its options, which a run keeps as they are: {to_go_on(plan)}"
        )
    return status


def summarise(result: dict[str, Any], seconds: float | None = None) -> None:
    """Print the summary.

    :param seconds: how long it took; None when that was before
    """
    print_table(summary(result, result["verdict"] + ("" if seconds is None else f" in {duration(seconds)}")))


def summary(result: dict[str, Any], job: str) -> dict[str, str | None]:
    """Return the lines of the summary, by name.

    :param result: in the form of ``job_result.json``
    :param job: what has become of it, or becomes
    """
    counts = result["counts"]
    at_least = "at least " if counts.get("items_at_least") else ""
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("succeeded", "short", "failed", "unprocessed"))
    return {
        "job": job,
        "mini-batches": f"{counts['mini_batches']} ({kinds})",
        "items": f"{at_least}{counts['items']} ({counts['items_failed']} failed)",
        "rows": str(counts["rows"]),
        "output file": result["output_file"],
        "failed items": result["failed_items_file"],
        "run directory": result["run_dir"],
        "logs": result["logs"],
    }


def print_table(lines: dict[str, str | None]) -> None:
    """Print names and texts; those without a text are left out."""
    for name, text in lines.items():
        if text:
            print(f"{name + ':':<15}{text}")
    sys.stdout.flush()


def to_go_on(plan: Plan) -> str:
    """Return the command that goes on with a run, in a sentence."""
    return f"To go on: {resume_command(plan)}"


def resume_command(plan: Plan) -> str:
    """Return the command that goes on with a run, as a shell takes it."""
    return shlex.join(["parallelrun", "resume", plan.run_dir])


def tolerated_failures(result: dict[str, Any]) -> str:
    """Return how many mini-batches were not what they should be, in a sentence."""
    count = result["counts"]["failed"] + result["counts"]["short"]
    return f"{count} mini-batch{'' if count == 1 else 'es'} failed or came back short, which was tolerated."


def how_to_redrive(plan: Plan, result: dict[str, Any]) -> str:
    """Return the command that runs these again."""
    command = shlex.join(["parallelrun", "redrive", plan.run_dir])
    return (
        f"{tolerated_failures(result)} To run them again (add --fresh-code when the script has been "
        f"repaired): {command}"
    )


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what stderr is now: the progress bar takes it over, so that lines stay above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr
