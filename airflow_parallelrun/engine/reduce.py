# SPDX-License-Identifier: Apache-2.0
"""Reduce: seal the round, count, judge, and publish. It reads storage alone, and can be repeated."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import budget, names, ownership, report
from airflow_parallelrun.engine.assembly import assemble
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.ledger import UNPROCESSED, Counts, Ledger
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.report import JobResult
from airflow_parallelrun.engine.rounds import attempts, seal
from airflow_parallelrun.exceptions import (
    NothingToAppendError,
    ThresholdExceededError,
    UnprocessedError,
    VerdictError,
)

if TYPE_CHECKING:
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal

_SHOWN = 5


def reduce(run_dir: str) -> JobResult:
    """Judge a run, and publish its output if it succeeded.

    ``job_result.json`` is written last, also for a failed job; its presence says that the rest is there.

    :param run_dir: the run directory
    :raises ThresholdExceededError: when more failed than was tolerated
    :raises UnprocessedError: when mini-batches are left that no node finished
    :raises NothingToAppendError: when output_action is append_row and there is no row
    :raises OutputExistsError: when a file of another origin is in the way
    :raises StorageError: when the run directory cannot be read or the output not written
    """
    started = time.monotonic()
    plan = read_plan(run_dir)
    sealed = seal(plan.store)
    ledger = Ledger.read(plan, sealed)
    result = _result(plan, sealed, ledger)
    failure = _judge(plan, ledger, result)
    if failure is not None:
        result = replace(result, verdict="failed", reason=str(failure))
    if plan.output is not None:
        result = _publish_all(plan, plan.output, ledger, result, started)
    if failure is not None:
        raise failure
    return result


def _publish_all(plan: Plan, output: str, ledger: Ledger, result: JobResult, started: float) -> JobResult:
    """Publish what the verdict calls for, and take back what an earlier one left that it does not."""
    if ledger.has_problems:
        with ownership.publishing(output, ownership.FAILED_ITEMS) as file:
            file.writelines(report.failed_item_lines(plan, ledger.problems()))
        result = replace(result, failed_items_file=os.path.join(output, ownership.FAILED_ITEMS))
    else:
        ownership.retract(output, ownership.FAILED_ITEMS)
    name = plan.config.append_row_file_name
    if name and plan.append_row:
        if result.verdict == "failed":
            ownership.retract(output, name)
        else:
            result = replace(result, output_file=assemble(plan, ledger, name))
    result.durations["reduce_s"] = round(time.monotonic() - started, 3)
    with ownership.publishing(output, ownership.RESULT) as file:
        file.write(result.to_json())
    return result


def _result(plan: Plan, sealed: Seal, ledger: Ledger) -> JobResult:
    counts = ledger.counts()
    clean = counts.items_failed == 0 and counts.failed == 0 and counts.short == 0
    return JobResult(
        verdict="succeeded" if clean else "succeeded with errors",
        reason="",
        output=plan.output,
        output_file=None,
        failed_items_file=None,
        logs=plan.logs,
        run_dir=plan.run_dir,
        plan_id=plan.plan_id,
        round=sealed.round,
        counts=counts,
        durations={"split_s": plan.split_seconds, **_node_durations(plan)},
        error_groups=report.group_errors(plan, ledger.problems()),
    )


def _judge(plan: Plan, ledger: Ledger, result: JobResult) -> VerdictError | None:
    counts = result.counts
    failures = Failures(counts.items_failed, counts.failed + counts.short)
    breaches = budget.final_breaches(plan.config, failures, counts.mini_batches)
    if breaches:
        return ThresholdExceededError(breaches, _story(result))
    if counts.unprocessed:
        ordinals = list(ledger.ordinals(UNPROCESSED))
        return UnprocessedError(counts.unprocessed, ordinals, _why_unprocessed(plan, result.round))
    if plan.append_row and counts.rows == 0:
        return NothingToAppendError(_why_nothing(counts, result))
    return None


def _story(result: JobResult) -> str:
    """Return the most frequent cause: the user's own error, where it happened and where the log is."""
    if not result.error_groups:
        return f"Logs: {result.logs}"
    group = result.error_groups[0]
    items = ", ".join([os.path.basename(item) for item in group.sample_items])
    text = (
        f"Most frequent error, in {group.mini_batches} mini-batches ({group.items} items): {group.error}\n"
        f"First in mini-batch {group.sample_mini_batch}, whose items begin with {items}."
    )
    if group.traceback:
        text += f"\n{group.traceback.rstrip()}"
    return f"{text}\nFull log: {group.log or result.logs}"


def _why_nothing(counts: Counts, result: JobResult) -> str:
    if counts.failed:
        return f"{counts.failed} of {counts.mini_batches} mini-batches failed. {_story(result)}"
    return (
        f"run() returned an empty list or frame for all {counts.mini_batches} mini-batches. "
        "Return one element for each item, or use output_action summary_only."
    )


def _why_unprocessed(plan: Plan, round_: int) -> str:
    """Return how the last attempt of each node in the round ended, where that left work behind."""
    last = {attempt.node: attempt for attempt, of in attempts(plan.store).items() if of == round_}
    ends = {Attempt.parse(name) for name in plan.store.names(names.ENDS)}
    told = []
    for attempt in last.values():
        if attempt not in ends:
            told.append(f"node {attempt} was lost without a word (killed, or its machine went away)")
            continue
        end = json.loads(plan.store.read(f"{names.ENDS}/{attempt}"))
        if end["outcome"] != "finished":
            told.append(f"node {attempt} {end['outcome']}: {end['message']}".rstrip("."))
    story = "; ".join(told[:_SHOWN]) or "no node was started"
    return (
        f"{story}. To go on, clear the failed nodes (the run tasks) together with reduce; "
        f"what is done is not done again. Logs: {plan.logs}"
    )


def _node_durations(plan: Plan) -> dict[str, float]:
    init, run = 0.0, 0.0
    for name in plan.store.names(names.ENDS):
        end = json.loads(plan.store.read(f"{names.ENDS}/{name}"))
        init = max(init, end["first_init_s"] or 0.0)
        run += end["run_seconds"]
    return {"first_init_s": init, "run_s": round(run, 3)}
