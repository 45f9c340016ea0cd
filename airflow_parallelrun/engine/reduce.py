# SPDX-License-Identifier: Apache-2.0
"""Reduce: seal the round, count, judge, and publish. It reads storage alone, and can be repeated."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from airflow_parallelrun.engine import budget, names, ownership, report
from airflow_parallelrun.engine.assembly import assemble
from airflow_parallelrun.engine.budget import Failures
from airflow_parallelrun.engine.ledger import UNPROCESSED, Counts, Ledger
from airflow_parallelrun.engine.leftovers import remove_temporaries
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.report import JobResult
from airflow_parallelrun.engine.rounds import attempts, is_last, seal
from airflow_parallelrun.engine.standing import published_result
from airflow_parallelrun.exceptions import (
    NothingToAppendError,
    OutputError,
    ThresholdExceededError,
    UnprocessedError,
    VerdictError,
)

if TYPE_CHECKING:
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.rounds import Seal

logger = logging.getLogger(__name__)

_SHOWN = 5


class _OvertakenError(Exception):
    """A later round was sealed while this one was being published."""


def reduce(run_dir: str) -> JobResult:
    """Judge a run, and publish its output if it succeeded.

    :param run_dir: the run directory
    :raises ThresholdExceededError: when more failed than was tolerated
    :raises UnprocessedError: when mini-batches are left that no node finished
    :raises NothingToAppendError: when output_action is append_row and there is no row
    :raises OutputOwnedError: when the output folder belongs to another run by now
    :raises OutputExistsError: when a file of another origin is in the way
    :raises StorageError: when the run directory cannot be read or the output not written
    """
    result, failure = settle(run_dir)
    if failure is not None:
        raise failure
    return result


def settle(run_dir: str) -> tuple[JobResult, VerdictError | None]:
    """Do what :func:`reduce` does, but return the verdict of a failed job beside its result.

    ``job_result.json`` is written last, also for a failed job; its presence says that the rest is there.
    """
    plan = read_plan(run_dir)
    _sweep(plan)  # before anything is written: the disk may be full of what one that was killed has left
    while True:
        try:
            settled = _conclude(plan, seal(plan.store))
        except _OvertakenError:
            logger.info("a later round was sealed meanwhile; judging that one")
        else:
            _sweep(plan)
            return settled


def _sweep(plan: Plan) -> None:
    for folder in (plan.run_dir, *([ownership.folder(plan.output)] if plan.output else [])):
        remove_temporaries(folder)


def _conclude(plan: Plan, sealed: Seal) -> tuple[JobResult, VerdictError | None]:
    """Judge a round, and publish the verdict."""
    started = time.monotonic()
    ledger = Ledger.read(plan, sealed)
    result = _result(plan, sealed, ledger)
    counts = result.counts
    logger.info(
        "round %d is sealed: of %d mini-batches %d succeeded, %d are short, %d failed, %d are left; %d rows",
        sealed.round,
        counts.mini_batches,
        counts.succeeded,
        counts.short,
        counts.failed,
        counts.unprocessed,
        counts.rows,
    )
    failure = _judge(plan, ledger, result)
    if failure is not None:
        result = replace(result, verdict="failed", reason=str(failure))
    try:
        if plan.output is not None:
            result = _publish_all(plan, plan.output, ledger, result, started)
    except OutputError as error:
        if failure is None:
            raise
        # Why the job failed says more than why that cannot be written.
        logger.error("the result was not published: %s", error)
    return result, failure


def _publish_all(plan: Plan, output: str, ledger: Ledger, result: JobResult, started: float) -> JobResult:
    """Publish what the verdict calls for, and take back what an earlier one left that it does not."""

    def check() -> None:
        if not is_last(plan.store, result.round):
            raise _OvertakenError

    check()
    name = plan.config.append_row_file_name
    has_output = result.verdict != "failed" and plan.append_row
    # The folder may have been removed since split, and another run may have taken it.
    # A reduce that is repeated comes to the same result, and somebody may be reading the one that is there.
    anew = published_result(plan) is None
    ownership.take(output, plan.owner, ownership.result_names(name if has_output else None), anew)
    if ledger.has_problems:
        with ownership.publishing(output, ownership.FAILED_ITEMS) as file:
            file.writelines(report.failed_item_lines(plan, ledger.problems()))
            check()
        result = replace(result, failed_items_file=os.path.join(output, ownership.FAILED_ITEMS))
    else:
        ownership.retract(output, ownership.FAILED_ITEMS)
    if name and has_output:
        result = replace(result, output_file=assemble(plan, ledger, name, check))
    elif name and ownership.is_published(output, name):
        ownership.retract(output, name)
    result.durations["reduce_s"] = round(time.monotonic() - started, 3)
    with ownership.publishing(output, ownership.RESULT) as file:
        file.write(result.to_json())
        check()
    check()  # a later verdict may have come between the check and the name; then it is published again
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
        thresholds=budget.thresholds(plan.config),
        durations={"split_s": plan.split_seconds, **_node_durations(plan)},
        error_groups=report.group_errors(plan, ledger.problems()),
    )


def _judge(plan: Plan, ledger: Ledger, result: JobResult) -> VerdictError | None:
    counts = result.counts
    left = counts.failed + counts.unprocessed
    failures = Failures(counts.items_failed, counts.failed + counts.short)
    breaches = budget.final_breaches(plan.config, failures, counts.mini_batches)
    if breaches:
        return ThresholdExceededError(breaches, _story(result), left)
    if counts.unprocessed:
        ordinals = list(islice(ledger.ordinals(UNPROCESSED), _SHOWN))
        return UnprocessedError(counts.unprocessed, ordinals, _why_unprocessed(plan, result.round), left)
    if plan.append_row and counts.rows == 0:
        return NothingToAppendError(_why_nothing(counts, result), left)
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
    started = attempts(plan.store)
    # A round in which none has started has what one of an earlier round did after that was sealed.
    in_round = [attempt for attempt, of in started.items() if of == round_] or list(started)
    last = {attempt.node: attempt for attempt in in_round}
    ends = {Attempt.parse(name) for name in plan.store.names(names.ENDS)}
    told = []
    for attempt in last.values():
        if attempt not in ends:
            told.append(f"node {attempt} was lost without a word (killed, or its machine went away)")
            continue
        end = json.loads(plan.store.read(f"{names.ENDS}/{attempt}"))
        if end["outcome"] != "finished":
            told.append(f"node {attempt} {end['outcome']}: {end['message']}".rstrip("."))
    story = "; ".join(told[:_SHOWN]) or "no node was started for them"
    return f"{story}. Logs: {plan.logs}"


def _node_durations(plan: Plan) -> dict[str, float]:
    init, run = 0.0, 0.0
    for name in plan.store.names(names.ENDS):
        end = json.loads(plan.store.read(f"{names.ENDS}/{name}"))
        init = max(init, end["first_init_s"] or 0.0)
        run += end["run_seconds"]
    return {"first_init_s": init, "run_s": round(run, 3)}
